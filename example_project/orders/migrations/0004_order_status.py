from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("orders", "0003_order_number_required")]

    operations = [
        migrations.AddField(
            model_name="order",
            name="status",
            field=models.CharField(
                choices=[
                    ("open", "Open"),
                    ("paid", "Paid"),
                    ("sent", "Sent"),
                    ("cancelled", "Cancelled"),
                ],
                default="open",
                max_length=10,
            ),
        ),
        migrations.AddIndex(
            model_name="order",
            index=models.Index(
                fields=["status", "-created_at"], name="order_by_status"
            ),
        ),
    ]
