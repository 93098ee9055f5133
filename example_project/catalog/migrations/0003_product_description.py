from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("catalog", "0002_category_parent")]

    operations = [
        migrations.AddField(
            model_name="product",
            name="description",
            field=models.TextField(blank=True, default=""),
            preserve_default=False,
        ),
    ]
