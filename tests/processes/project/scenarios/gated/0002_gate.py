from django.db import migrations

import acts
import tables


def enter(apps, schema_editor):
    tables.enter(schema_editor, "gate")
    acts.note("inside")
    acts.wait_for("go")


class Migration(migrations.Migration):
    dependencies = [("shop", "0001_initial")]
    operations = [tables.run_python(enter)]
