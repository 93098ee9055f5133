from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("shop", "0002_sale")]
    operations = [
        migrations.RunSQL(
            "CREATE VIEW shop_sold AS SELECT DISTINCT product_id FROM shop_sale",
            "DROP VIEW shop_sold",
        )
    ]
