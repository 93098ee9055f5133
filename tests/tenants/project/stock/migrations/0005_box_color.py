from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("stock", "0004_first_box")]
    operations = [
        migrations.AddField(
            "box", "color", models.CharField(default="", max_length=20)
        ),
        migrations.RunSQL(
            "UPDATE stock_box SET color = '100% red'",
            migrations.RunSQL.noop,
        ),
    ]
