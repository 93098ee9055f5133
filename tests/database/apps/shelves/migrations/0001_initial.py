import django.db.models.deletion
import django.db.models.functions.text
from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="Garden",
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
            ],
            options={
                "managed": False,
            },
        ),
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
                ("label", models.CharField(db_index=True, max_length=20)),
                ("note", models.TextField(db_index=True)),
                ("width", models.IntegerField(db_index=True)),
                ("height", models.IntegerField()),
                ("data", models.JSONField(default=dict)),
                (
                    "above",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        to="shelves.shelf",
                    ),
                ),
            ],
        ),
        migrations.CreateModel(
            name="Room",
            fields=[
                (
                    "code",
                    models.CharField(max_length=10, primary_key=True, serialize=False),
                ),
                ("name", models.CharField(max_length=50, unique=True)),
            ],
        ),
        migrations.CreateModel(
            name="Flat",
            fields=[],
            options={
                "proxy": True,
                "indexes": [],
                "constraints": [],
            },
            bases=("shelves.shelf",),
        ),
        migrations.AddField(
            model_name="shelf",
            name="loose",
            field=models.ForeignKey(
                db_constraint=False,
                db_index=False,
                on_delete=django.db.models.deletion.CASCADE,
                related_name="+",
                to="shelves.room",
            ),
        ),
        migrations.AddField(
            model_name="shelf",
            name="named",
            field=models.ForeignKey(
                db_column="Named By",
                on_delete=django.db.models.deletion.CASCADE,
                related_name="+",
                to="shelves.room",
                to_field="name",
            ),
        ),
        migrations.AddField(
            model_name="shelf",
            name="room",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.CASCADE, to="shelves.room"
            ),
        ),
        migrations.CreateModel(
            name="Door",
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
                (
                    "outside",
                    models.ForeignKey(
                        db_constraint=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        to="shelves.garden",
                    ),
                ),
                (
                    "room",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE, to="shelves.room"
                    ),
                ),
            ],
        ),
        migrations.CreateModel(
            name="Deep",
            fields=[
                (
                    "shelf_ptr",
                    models.OneToOneField(
                        auto_created=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        parent_link=True,
                        primary_key=True,
                        serialize=False,
                        to="shelves.shelf",
                    ),
                ),
                ("depth", models.IntegerField()),
                (
                    "rooms",
                    models.ManyToManyField(related_name="deep", to="shelves.room"),
                ),
            ],
            bases=("shelves.shelf",),
        ),
        migrations.AddIndex(
            model_name="shelf",
            index=models.Index(fields=["height", "-width"], name="shelf_order"),
        ),
        migrations.AddIndex(
            model_name="shelf",
            index=models.Index(fields=["-height"], name="shelf_height_down"),
        ),
        migrations.AddIndex(
            model_name="shelf",
            index=models.Index(
                fields=["height", "label", "width"],
                name="shelves_she_height_bb5303_idx",
            ),
        ),
        migrations.AddIndex(
            model_name="shelf",
            index=models.Index(
                condition=models.Q(("width", 1)), fields=["height"], name="shelf_narrow"
            ),
        ),
        migrations.AddIndex(
            model_name="shelf",
            index=models.Index(
                condition=models.Q(("width", 2)), fields=["height"], name="shelf_wider"
            ),
        ),
        migrations.AddIndex(
            model_name="shelf",
            index=models.Index(
                fields=["note", "height"], include=("data",), name="shelf_covering"
            ),
        ),
        migrations.AddIndex(
            model_name="shelf",
            index=models.Index(
                django.db.models.functions.text.Lower("label"), name="shelf_lower"
            ),
        ),
        migrations.AddIndex(
            model_name="shelf",
            index=models.Index(
                models.OrderBy(
                    django.db.models.functions.text.Lower("note"), descending=True
                ),
                models.F("height"),
                name="shelf_lower_note",
            ),
        ),
        migrations.AddIndex(
            model_name="shelf",
            index=models.Index(
                models.OrderBy(models.F("height"), descending=True),
                models.F("note"),
                name="shelf_columns",
            ),
        ),
        migrations.AddIndex(
            model_name="shelf",
            index=models.Index(models.F("data__size"), name="shelf_size"),
        ),
    ]
