from django.db import migrations

import acts
import tables


def enter(apps, schema_editor):
    acts.note("inside")
    acts.wait_for("go", meanwhile=lambda: schema_editor.execute("SELECT 1"))
    tables.enter(schema_editor, "busy")


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("shop", "0001_initial")]
    operations = [tables.run_python(enter)]
