from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("customers", "0006_rename_street_to_line1")]

    operations = [
        migrations.AddIndex(
            model_name="customer",
            index=models.Index(fields=["-created_at"], name="customer_newest"),
        ),
    ]
