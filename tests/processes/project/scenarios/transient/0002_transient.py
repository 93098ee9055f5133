from django.db import migrations

import acts
import tables

CANNOT_SERIALIZE = (
    "DO $$ BEGIN RAISE SQLSTATE '40001' USING MESSAGE = 'could not serialize'; END $$"
)


def enter(apps, schema_editor):
    acts.note("inside")
    acts.wait_for("go")
    if acts.first_time("conflict"):
        schema_editor.execute(CANNOT_SERIALIZE)
    tables.enter(schema_editor, "serialized")


class Migration(migrations.Migration):
    dependencies = [("shop", "0001_initial")]
    operations = [tables.run_python(enter)]
