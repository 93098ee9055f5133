"""The functions and the operation of the generated migrations.

`log` writes a row that is committed together with the operation, so the rows count how often an
operation ran.
"""

from __future__ import annotations

import os
from typing import Any

from django.db import DatabaseError, models
from django.db.migrations.operations.base import Operation

if os.environ.get("RESUME_POINTS"):
    from dying import point
else:

    def point(kind: str) -> None:
        """Pass a point at which no death is wanted."""


def log(editor: Any, text: str) -> None:
    """Insert a row into the log table."""
    point("inside Python")
    editor.execute("INSERT INTO shop_log (text) VALUES (%s)", [text])
    point("inside Python")


def log_once(editor: Any, text: str) -> None:
    """Insert a row into the log table, unless it is there."""
    point("inside Python")
    editor.execute("DELETE FROM shop_log WHERE text = %s", [text])
    point("inside Python")
    editor.execute("INSERT INTO shop_log (text) VALUES (%s)", [text])
    point("inside Python")


def forget(editor: Any, text: str) -> None:
    """Delete a row of the log table, if it is there."""
    point("inside Python")
    editor.execute("DELETE FROM shop_log WHERE text = %s", [text])
    point("inside Python")


def add(apps: Any, model: str, field: str, number: int) -> None:
    """Add a number to a field of all rows: a second time would be seen."""
    point("inside Python")
    rows = apps.get_model("shop", model).objects.all()
    rows.update(**{field: models.F(field) + number})
    point("inside Python")


def create_table(apps: Any, editor: Any, name: str, target: str) -> None:
    """Create a table that no state has, with deferred SQL: an index and a foreign key."""
    registry = apps.clone()
    meta = type("Meta", (), {"app_label": "shop", "apps": registry})
    made = type(
        name,
        (models.Model,),
        {
            "__module__": "shop",
            "Meta": meta,
            "code": models.CharField(max_length=20, db_index=True),
            "target": models.ForeignKey(
                registry.get_model("shop", target), models.CASCADE, related_name="+"
            ),
        },
    )
    point("inside Python")
    editor.create_model(made)
    point("inside Python")


class MakeTable(Operation):
    """An operation of a project, which Django knows nothing about."""

    reversible = True

    def __init__(self, name: str, stubborn: bool = False) -> None:
        self.name = name
        #: Fails at first, and continues: so it cannot run in a transaction of PostgreSQL.
        self.stubborn = stubborn

    def state_forwards(self, app_label: str, state: Any) -> None:
        """Leave the state as it is."""

    def _execute(self, editor: Any, sql: str) -> None:
        point("inside Python")
        if self.stubborn:
            try:
                editor.execute("SELECT * FROM shop_that_is_missing")
            except DatabaseError:
                point("inside Python")
        editor.execute(sql)
        point("inside Python")

    def database_forwards(
        self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any
    ) -> None:
        """Create the table."""
        exists = "IF NOT EXISTS " if self.stubborn else ""
        self._execute(schema_editor, f"CREATE TABLE {exists}{self.name} (code integer)")

    def database_backwards(
        self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any
    ) -> None:
        """Drop the table."""
        exists = "IF EXISTS " if self.stubborn else ""
        self._execute(schema_editor, f"DROP TABLE {exists}{self.name}")

    def describe(self) -> str:
        """Return a text for `migrate --plan`."""
        return f"Make the table {self.name}"
