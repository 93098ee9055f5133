from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    # CREATE INDEX CONCURRENTLY, which is for a shop that goes on selling, has no transaction.
    atomic = False

    dependencies = [("catalog", "0008_product_price_not_negative")]

    operations = [
        AddIndexConcurrently(
            model_name="product",
            index=models.Index(fields=["name"], name="product_name"),
        ),
    ]
