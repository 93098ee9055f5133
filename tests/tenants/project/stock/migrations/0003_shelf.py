from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("stock", "0002_box_weight")]
    operations = [
        migrations.CreateModel(
            name="Shelf",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True,
                        primary_key=True,
                        serialize=False,
                        verbose_name="ID",
                    ),
                ),
                ("name", models.CharField(max_length=50)),
                ("boxes", models.ManyToManyField(to="stock.box")),
            ],
        ),
        migrations.AlterField(
            "shelf", "name", models.CharField(max_length=50, unique=True)
        ),
    ]
