from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("customers", "0003_address")]

    operations = [
        migrations.AddConstraint(
            model_name="address",
            constraint=models.UniqueConstraint(
                condition=models.Q(("is_default", True)),
                fields=("customer",),
                name="address_one_default",
            ),
        ),
    ]
