from django.db import migrations

import acts
import tables


def enter(apps, schema_editor):
    tables.enter(schema_editor, "before")
    if acts.first_time("swallowing"):
        acts.note("inside")
        try:
            tables.enter(schema_editor, "slow", after=60)
        except Exception:  # noqa: BLE001  (the scenario swallows every error)
            acts.note("swallowed")
    tables.enter(schema_editor, "after")


class Migration(migrations.Migration):
    dependencies = [("shop", "0001_initial")]
    operations = [tables.run_python(enter)]
