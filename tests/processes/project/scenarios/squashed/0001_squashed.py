from django.db import migrations

import tables


class Migration(migrations.Migration):
    initial = True
    replaces = [("shop", "0001_initial")]
    operations = tables.product_and_entry()
