from django.db import migrations

import acts
import tables


def enter(apps, schema_editor):
    acts.note("data")
    tables.enter(schema_editor, "data")


class Migration(migrations.Migration):
    dependencies = [("shop", "0002_name_index")]
    operations = [tables.run_python(enter)]
