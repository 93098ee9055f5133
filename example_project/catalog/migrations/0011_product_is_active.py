from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("catalog", "0010_stockitem")]

    operations = [
        migrations.AddField(
            model_name="product",
            name="is_active",
            field=models.BooleanField(default=True),
        ),
        migrations.AddIndex(
            model_name="product",
            index=models.Index(
                condition=models.Q(("is_active", True)),
                fields=["category"],
                name="product_on_sale",
            ),
        ),
    ]
