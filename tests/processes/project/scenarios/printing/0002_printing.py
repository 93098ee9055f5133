import os
import sys

from django.db import migrations

import tables


def enter(apps, schema_editor):
    print("printed by a migration", os.environ.get("SCENARIO_TEXT", ""))
    sys.__stdout__.write("written past sys.stdout\n")
    tables.enter(schema_editor, "printing")


class Migration(migrations.Migration):
    dependencies = [("shop", "0001_initial")]
    operations = [tables.run_python(enter)]
