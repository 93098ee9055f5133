from django.db import migrations

import tables


class Migration(migrations.Migration):
    initial = True
    operations = tables.product_and_entry()
