import django.db.models.constraints
import django.db.models.deletion
import django.db.models.functions.text
from django.db import migrations, models

import tests.database.apps.library.models


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="Outside",
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
            name="Book",
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
                ("title", models.CharField(max_length=50)),
                ("draft", models.BooleanField(default=True)),
                ("pages", models.PositiveIntegerField(default=1)),
                ("shelf", models.CharField(max_length=10, null=True)),
                (
                    "number",
                    models.CharField(
                        db_column="ISBN Number", max_length=20, unique=True
                    ),
                ),
                (
                    "length",
                    models.GeneratedField(
                        db_persist=True,
                        expression=django.db.models.functions.text.Length("title"),
                        output_field=models.IntegerField(),
                    ),
                ),
            ],
        ),
        migrations.CreateModel(
            name="Elsewhere",
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
                "required_db_vendor": "oracle",
            },
        ),
        migrations.CreateModel(
            name="Author",
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
                ("code", models.CharField(max_length=20, unique=True)),
                ("name", models.CharField(max_length=50)),
                ("born", models.DateField(null=True)),
                (
                    "sum_of_all",
                    tests.database.apps.library.models.Unstored(unique=True),
                ),
                ("friends", models.ManyToManyField(to="library.author")),
            ],
            options={
                "abstract": False,
            },
        ),
        migrations.CreateModel(
            name="Novel",
            fields=[
                (
                    "book_ptr",
                    models.OneToOneField(
                        auto_created=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        parent_link=True,
                        primary_key=True,
                        serialize=False,
                        to="library.book",
                    ),
                ),
                ("genre", models.CharField(max_length=20, null=True, unique=True)),
            ],
            bases=("library.book",),
        ),
        migrations.AddField(
            model_name="book",
            name="author",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.CASCADE, to="library.author"
            ),
        ),
        migrations.AddField(
            model_name="book",
            name="editors",
            field=models.ManyToManyField(related_name="edited", to="library.author"),
        ),
        migrations.CreateModel(
            name="Reader",
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
                ("books", models.ManyToManyField(to="library.book")),
            ],
            options={
                "swappable": "LIBRARY_READER_MODEL",
            },
        ),
        migrations.CreateModel(
            name="Paperback",
            fields=[],
            options={
                "proxy": True,
                "indexes": [],
                "constraints": [],
            },
            bases=("library.book",),
        ),
        migrations.CreateModel(
            name="Loan",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "book",
                        "day",
                        blank=True,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("day", models.DateField()),
                (
                    "book",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, to="library.book"
                    ),
                ),
            ],
        ),
        migrations.CreateModel(
            name="Reading",
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
                ("at", models.DateTimeField(auto_now_add=True)),
                (
                    "author",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, to="library.author"
                    ),
                ),
                (
                    "book",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, to="library.book"
                    ),
                ),
            ],
        ),
        migrations.AddField(
            model_name="book",
            name="readers",
            field=models.ManyToManyField(
                related_name="read", through="library.Reading", to="library.author"
            ),
        ),
        migrations.AddConstraint(
            model_name="author",
            constraint=models.UniqueConstraint(
                django.db.models.functions.text.Lower("code"),
                name="library_author_code_in_any_case",
            ),
        ),
        migrations.AlterUniqueTogether(
            name="author",
            unique_together={("name", "born")},
        ),
        migrations.AddConstraint(
            model_name="book",
            constraint=models.UniqueConstraint(
                fields=("author", "title"), name="book_title"
            ),
        ),
        migrations.AddConstraint(
            model_name="book",
            constraint=models.UniqueConstraint(
                condition=models.Q(("draft", False)),
                fields=("title",),
                name="book_published",
            ),
        ),
        migrations.AddConstraint(
            model_name="book",
            constraint=models.UniqueConstraint(
                django.db.models.functions.text.Lower("title"),
                models.F("author"),
                name="book_lower",
            ),
        ),
        migrations.AddConstraint(
            model_name="book",
            constraint=models.UniqueConstraint(
                deferrable=django.db.models.constraints.Deferrable["DEFERRED"],
                fields=("pages", "title"),
                name="book_later",
            ),
        ),
        migrations.AddConstraint(
            model_name="book",
            constraint=models.UniqueConstraint(
                fields=("shelf", "pages"), include=("draft",), name="book_covering"
            ),
        ),
        migrations.AddConstraint(
            model_name="book",
            constraint=models.UniqueConstraint(
                fields=("shelf", "title"), name="book_nulls", nulls_distinct=False
            ),
        ),
        migrations.AddConstraint(
            model_name="book",
            constraint=models.UniqueConstraint(
                condition=models.Q(("shelf", "new")),
                fields=("pages",),
                name="long_long_long_long_long_long_long_long_long_long_long_long_long_long_long_",
            ),
        ),
    ]
