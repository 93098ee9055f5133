from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("stock", "0001_initial")]
    operations = [
        migrations.AddField(
            "box", "weight", models.IntegerField(default=0, db_index=True)
        ),
    ]
