from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("orders", "0001_initial")]

    operations = [
        migrations.AddField(
            model_name="order",
            name="number",
            field=models.CharField(max_length=20, null=True, unique=True),
        ),
        # Orders that were created before orders had numbers.
        migrations.RunSQL(
            "UPDATE orders_order SET number = 'O' || lpad(id::text, 7, '0') WHERE number IS NULL",
            migrations.RunSQL.noop,
        ),
    ]
