from django.db import migrations

import acts
import tables

LOCK = "LOCK TABLE django_safe_init_run, django_safe_init_step IN ACCESS EXCLUSIVE MODE"


def enter(apps, schema_editor):
    if acts.chosen("GATED"):
        acts.note("before")
        acts.wait_for("lock")
    schema_editor.execute(LOCK)
    acts.note("inside")
    if acts.chosen("GATED") and acts.first_time("locking"):
        acts.wait_for("go")
    tables.enter(schema_editor, "locking", after=float(acts.chosen("AFTER", "3")))


class Migration(migrations.Migration):
    dependencies = [("shop", "0001_initial")]
    operations = [tables.run_python(enter)]
