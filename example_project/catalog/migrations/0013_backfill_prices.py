from django.conf import settings
from django.db import migrations

from django_safe_init import track

BACKFILL = """
    INSERT INTO catalog_productprice (product_id, day, price)
    SELECT product.id, CURRENT_DATE - days, product.price
    FROM catalog_product AS product CROSS JOIN generate_series(1, 365) AS days
    WHERE product.id = %s
"""


def backfill(apps, schema_editor):
    """Insert a year of prices for every product, as slowly as in a shop with a million of them."""
    products = apps.get_model("catalog", "Product").objects.values_list("id", flat=True)
    pause = settings.SHOP_SLOW_SECONDS / max(1, len(products))
    rows = 0
    with schema_editor.connection.cursor() as cursor:
        for product in track(products, message="products"):
            cursor.execute(BACKFILL, [product])
            rows += cursor.rowcount
            cursor.execute("SELECT pg_sleep(%s)", [pause])
    ChangeLog = apps.get_model("catalog", "ChangeLog")
    ChangeLog.objects.create(
        migration="catalog.0013_backfill_prices", text=f"{rows} prices"
    )


def clear(apps, schema_editor):
    """Delete the prices and their entry in the change log."""
    apps.get_model("catalog", "ProductPrice").objects.all().delete()
    apps.get_model("catalog", "ChangeLog").objects.filter(
        migration="catalog.0013_backfill_prices"
    ).delete()


class Migration(migrations.Migration):
    dependencies = [("catalog", "0012_productprice")]

    operations = [
        migrations.RunPython(backfill, clear),
    ]
