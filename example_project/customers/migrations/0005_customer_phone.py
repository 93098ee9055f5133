from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("customers", "0004_address_one_default")]

    operations = [
        migrations.AddField(
            model_name="customer",
            name="phone",
            field=models.CharField(blank=True, default="", max_length=30),
            preserve_default=False,
        ),
    ]
