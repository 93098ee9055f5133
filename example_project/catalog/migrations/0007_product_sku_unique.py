from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("catalog", "0006_opening_assortment")]

    operations = [
        migrations.AlterField(
            model_name="product",
            name="sku",
            field=models.CharField(max_length=20, unique=True, verbose_name="SKU"),
        ),
    ]
