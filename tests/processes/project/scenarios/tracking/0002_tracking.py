from django.db import migrations

import acts
import tables
from django_safe_init import track


def enter(apps, schema_editor):
    for number in track(range(4), message="secret rows"):
        if number == 2:
            acts.note("inside")
            acts.wait_for("go")
        tables.enter(schema_editor, f"row {number}")


class Migration(migrations.Migration):
    dependencies = [("shop", "0001_initial")]
    operations = [tables.run_python(enter)]
