from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("shop", "0003_view")]
    operations = [
        migrations.AddIndex(
            "Product", models.Index(fields=["name"], name="shop_product_name")
        )
    ]
