"""A migration that fails."""

from django.db import migrations


def fill(apps, schema_editor):
    raise ValueError("product 7 has no price")


class Migration(migrations.Migration):
    dependencies = [("shop", "0002_price")]
    operations = [migrations.RunPython(fill, migrations.RunPython.noop)]
