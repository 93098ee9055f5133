from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("shop", "0005_data")]
    operations = [
        migrations.AddIndex(
            "Entry", models.Index(fields=["text"], name="shop_entry_text")
        )
    ]
