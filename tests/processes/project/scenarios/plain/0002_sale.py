from django.db import migrations

import tables


class Migration(migrations.Migration):
    dependencies = [("shop", "0001_initial")]
    operations = [tables.sale()]
