from django.db import migrations

import acts
import tables


def die(apps, schema_editor):
    acts.note("dies")
    acts.die()


class Migration(migrations.Migration):
    dependencies = [("shop", "0001_initial")]
    operations = [tables.run_python(die)]
