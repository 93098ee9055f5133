from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("catalog", "0003_product_description")]

    operations = [
        migrations.AddField(
            model_name="product",
            name="sku",
            field=models.CharField(max_length=20, null=True, verbose_name="SKU"),
        ),
    ]
