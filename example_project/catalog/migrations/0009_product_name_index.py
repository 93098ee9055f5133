from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    # CREATE INDEX CONCURRENTLY, which does not block sales, cannot run in a transaction.
    atomic = False

    dependencies = [("catalog", "0008_product_price_not_negative")]

    operations = [
        AddIndexConcurrently(
            model_name="product",
            index=models.Index(fields=["name"], name="product_name"),
        ),
    ]
