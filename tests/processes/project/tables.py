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
    """Return a table with a foreign key, whose constraint is deferred SQL."""
    product = models.ForeignKey("shop.Product", models.CASCADE)
    return migrations.CreateModel("Sale", [ID, ("product", product)])


#: Adds an entry. The last parameter is the time spent inside the database, in seconds.
ENTER = {
    "postgresql": "INSERT INTO shop_entry (text, pid, at)"
    " SELECT %s, %s, clock_timestamp() FROM pg_sleep(%s)",
    "mysql": "INSERT INTO shop_entry (text, pid, at)"
    " SELECT %s, %s, now(6) FROM (SELECT sleep(%s)) AS slept",
    # At least about a second on any present machine.
    "sqlite": "INSERT INTO shop_entry (text, pid, at) WITH RECURSIVE number(n) AS"
    " (SELECT 1 UNION ALL SELECT n + 1 FROM number LIMIT 1 + %s * 10000000)"
    " SELECT %s, %s, datetime('now') FROM (SELECT count(n) FROM number)",
}


def enter(schema_editor: BaseDatabaseSchemaEditor, text: str, after: float = 0) -> None:
    """Add an entry on the migrating connection, after `after` seconds inside the database."""
    vendor = schema_editor.connection.vendor
    values = [text, os.getpid(), after]
    if vendor == "sqlite":
        values = [int(after), text, os.getpid()]
    with schema_editor.connection.cursor() as cursor:
        cursor.execute(ENTER[vendor], values)


def run_python(code: object) -> migrations.RunPython:
    return migrations.RunPython(code, migrations.RunPython.noop)
