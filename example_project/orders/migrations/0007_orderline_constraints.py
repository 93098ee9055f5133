from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("orders", "0006_coupon")]

    operations = [
        migrations.AddConstraint(
            model_name="orderline",
            constraint=models.UniqueConstraint(
                fields=("order", "product"), name="orderline_product_once"
            ),
        ),
        migrations.AddConstraint(
            model_name="orderline",
            constraint=models.CheckConstraint(
                condition=models.Q(("quantity__gte", 1)),
                name="orderline_quantity_positive",
            ),
        ),
    ]
