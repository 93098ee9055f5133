from django.db import migrations

import acts
import tables


def enter(apps, schema_editor):
    if acts.chosen("PATIENT"):
        schema_editor.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        schema_editor.execute("SET LOCAL transaction_timeout = 0")
    tables.enter(schema_editor, "gate")
    acts.note("inside")
    acts.wait_for("go")


class Migration(migrations.Migration):
    dependencies = [("shop", "0001_initial")]
    operations = [tables.run_python(enter)]
