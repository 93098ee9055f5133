from django.db import migrations

import acts
import tables


def enter(apps, schema_editor):
    acts.note("newer data")
    tables.enter(schema_editor, "newer data")


class Migration(migrations.Migration):
    dependencies = [("shop", "0006_text_index")]
    operations = [tables.run_python(enter)]
