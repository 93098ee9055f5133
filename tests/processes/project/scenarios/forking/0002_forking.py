import os

from django.db import migrations

import acts
import tables


def fork(apps, schema_editor):
    if acts.first_time("fork"):
        if os.fork() == 0:
            acts.note("child")
            acts.wait_for("child")
            os._exit(0)
        acts.wait_for("never")
    tables.enter(schema_editor, "after the fork")


class Migration(migrations.Migration):
    dependencies = [("shop", "0001_initial")]
    operations = [tables.run_python(fork)]
