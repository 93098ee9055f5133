from django.db import migrations

import tables


def write(apps, schema_editor):
    print("für alle")


class Migration(migrations.Migration):
    dependencies = [("shop", "0001_initial")]
    operations = [tables.run_python(write)]
