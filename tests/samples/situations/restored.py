"""A database after a bad restore: a column is missing, an index is invalid."""

from django.db import migrations

LOSSES = """
    ALTER TABLE shop_product DROP COLUMN price;
    CREATE INDEX shop_product_name ON shop_product (name);
    UPDATE pg_index SET indisvalid = false
    WHERE indexrelid = 'shop_product_name'::regclass;
"""


class Migration(migrations.Migration):
    dependencies = [("shop", "0002_price")]
    operations = [migrations.RunSQL(LOSSES)]
