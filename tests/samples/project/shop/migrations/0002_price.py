from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("shop", "0001_initial")]
    operations = [
        migrations.AddField(
            "Product",
            "price",
            models.DecimalField(max_digits=8, decimal_places=2, null=True),
        )
    ]
