"""Operations that several scenarios share."""

import os

from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

ID = (
    "id",
    models.BigAutoField(
        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
    ),
)


def product_and_entry() -> list[migrations.CreateModel]:
    return [
        migrations.CreateModel(
            "Product", [ID, ("name", models.CharField(max_length=100))]
        ),
        migrations.CreateModel(
            "Entry",
            [
                ID,
                ("text", models.CharField(max_length=100)),
                ("pid", models.IntegerField()),
                ("at", models.DateTimeField()),
            ],
        ),
    ]


def sale() -> migrations.CreateModel:
    """A table with a foreign key: its constraint is deferred SQL."""
    product = models.ForeignKey("shop.Product", models.CASCADE)
    return migrations.CreateModel("Sale", [ID, ("product", product)])


def enter(schema_editor: BaseDatabaseSchemaEditor, text: str, after: float = 0) -> None:
    """Add an entry on the migrating connection, `after` seconds spent inside the server."""
    with schema_editor.connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO shop_entry (text, pid, at)"
            " SELECT %s, %s, clock_timestamp() FROM pg_sleep(%s)",
            [text, os.getpid(), after],
        )


def run_python(code: object) -> migrations.RunPython:
    return migrations.RunPython(code, migrations.RunPython.noop)
