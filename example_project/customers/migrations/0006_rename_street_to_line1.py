from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("customers", "0005_customer_phone")]

    operations = [
        migrations.RenameField(
            model_name="address", old_name="street", new_name="line1"
        ),
        migrations.AlterField(
            model_name="address",
            name="line1",
            field=models.CharField(max_length=120, verbose_name="address"),
        ),
    ]
