from django.db import migrations

import acts
import tables

STILL_RUNNING = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND state = 'active' AND query LIKE '%pg_sleep%'
      AND pid <> pg_backend_pid()
"""


def enter(apps, schema_editor):
    if acts.chosen("EACH") or acts.first_time("statement"):
        acts.note("inside")
        tables.enter(schema_editor, "orphan", after=3600)
    if schema_editor.connection.vendor == "postgresql":
        with schema_editor.connection.cursor() as cursor:
            cursor.execute(STILL_RUNNING)
            acts.note(f"successor, still running: {cursor.fetchone()[0]}")
    tables.enter(schema_editor, "successor")


class Migration(migrations.Migration):
    atomic = acts.chosen("ATOMIC", "1") == "1"
    dependencies = [("shop", "0001_initial")]
    operations = [tables.run_python(enter)]
