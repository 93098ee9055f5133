"""The first migration: the tables, with rows, that the generated operations begin with."""

from django.db import migrations, models


def fill(apps, schema_editor):
    """Create three rows of each model, whose references name each other's ids."""
    names = ["Author", "Shelf", "Book"]
    author, shelf, book = (apps.get_model("shop", name) for name in names)
    for key in (1, 2, 3):
        author.objects.create(name=f"author {key}", age=key * 10, note=None)
        shelf.objects.create(label=f"shelf {key}", height=key)
    for key in (1, 2, 3):
        made = book.objects.create(
            title=f"Book {key}", pages=key * 100, author_id=key, shelf_id=4 - key
        )
        made.editors.add(key)


class Migration(migrations.Migration):
    initial = True

    operations = [
        migrations.CreateModel(
            "Log",
            [
                ("id", models.BigAutoField(primary_key=True)),
                ("text", models.TextField()),
            ],
        ),
        migrations.CreateModel(
            "Author",
            [
                ("id", models.BigAutoField(primary_key=True)),
                ("name", models.CharField(max_length=50)),
                ("age", models.IntegerField(default=0)),
                ("note", models.TextField(null=True)),
            ],
        ),
        migrations.CreateModel(
            "Shelf",
            [
                ("id", models.BigAutoField(primary_key=True)),
                ("label", models.CharField(max_length=50)),
                ("height", models.IntegerField(default=0)),
            ],
        ),
        migrations.CreateModel(
            "Book",
            [
                ("id", models.BigAutoField(primary_key=True)),
                ("title", models.CharField(max_length=50)),
                ("pages", models.IntegerField(default=0)),
                ("author", models.ForeignKey("shop.Author", models.CASCADE, null=True)),
                ("shelf", models.ForeignKey("shop.Shelf", models.CASCADE, null=True)),
                ("editors", models.ManyToManyField("shop.Author", related_name="+")),
            ],
        ),
        migrations.RunPython(fill, migrations.RunPython.noop),
    ]
