"""A migration whose statement runs for ten minutes."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("shop", "0002_price")]
    operations = [migrations.RunSQL("SELECT pg_sleep(600)", migrations.RunSQL.noop)]
