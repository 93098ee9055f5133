"""Create and upgrade the status tables on SQLite, and write SQL that alters tables."""

from __future__ import annotations

import copy
from typing import Any

from django.db import NotSupportedError, connections, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.backends.sqlite3.schema import DatabaseSchemaEditor
from django.db.models import Field, GeneratedField, UniqueConstraint

from django_safe_init.backends.base.schema import MODELS, TableSchema
from django_safe_init.backends.sqlite3.session import SQLiteSession

#: Django reads what is kept as this: the time in UTC, to the millisecond.
NOW = "strftime('%Y-%m-%d %H:%M:%f', 'now')"


def ensure_tables(session: SQLiteSession) -> None:
    """Create the status tables, or add the columns they lack."""
    schema = TableSchema(connections[session.alias])
    for model in MODELS:
        table, columns = model._meta.db_table, schema.columns(model)
        present = {row["name"] for row in session.rows(f"PRAGMA table_info({table})")}
        if not present:
            body = ", ".join(f"{name} {kind}" for name, kind in columns.items())
            session.rows(f"CREATE TABLE {table} ({body})")
            for statement in schema.indexes(model):
                session.rows(statement)
            continue
        for name, definition in columns.items():
            if name not in present:
                session.rows(f"ALTER TABLE {table} ADD COLUMN {name} {definition}")


class AlterTableSchemaEditor(DatabaseSchemaEditor):
    """Writes SQLite's own ALTER TABLE.

    Django's makes a table anew for most fields, which needs to know all that the table has.
    """

    #: A primary key cannot be added; what it says can be kept all the same.
    sql_create_pk = DatabaseSchemaEditor.sql_create_unique

    def add_field(self, model: type[models.Model], field: Field[Any, Any]) -> None:
        """Raises `NotSupportedError` for what SQLite cannot add to rows that are there."""
        if field.primary_key or not self._has_value(field):
            raise NotSupportedError(f"SQLite cannot add {field}.")
        plain = copy.copy(field)
        plain._unique = False  # type: ignore[attr-defined]  # it may not be in ADD COLUMN
        vars(plain).pop("unique", None)  # which Django caches
        BaseDatabaseSchemaEditor.add_field(self, model, plain)
        del self.collected_sql[1:]  # it cannot drop a default
        if field.unique:
            name = f"{model._meta.db_table}_{field.column}_uniq"
            self.add_constraint(model, UniqueConstraint(fields=[field.name], name=name))

    def _has_value(self, field: Field[Any, Any]) -> bool:
        """Whether the rows there are can have one."""
        if isinstance(field, GeneratedField):
            return not field.db_persist  # type: ignore[attr-defined]  # a GeneratedField
        return (
            field.null
            or field.has_db_default()
            or self.effective_default(field) is not None
        )
