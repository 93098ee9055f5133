from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("catalog", "0007_product_sku_unique")]

    operations = [
        migrations.AddConstraint(
            model_name="product",
            constraint=models.CheckConstraint(
                condition=models.Q(("price__gte", 0)), name="product_price_not_negative"
            ),
        ),
    ]
