"""Create and alter tables on SQLite."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

from django.db import NotSupportedError, connections, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.backends.sqlite3.schema import DatabaseSchemaEditor
from django.db.models import Field, GeneratedField, UniqueConstraint

from django_safe_init.backends.base.schema import MODELS, TableSchema
from django_safe_init.backends.sqlite3.session import SQLiteSession
from django_safe_init.models import Operation

#: The current time as Django reads it from a table: in UTC, to the millisecond.
NOW = "strftime('%Y-%m-%d %H:%M:%f', 'now')"


def ensure_tables(session: SQLiteSession) -> None:
    """Create the status tables, or add the columns they lack."""
    _ensure(session, MODELS)


def ensure_journal(session: SQLiteSession) -> None:
    """Create the table of the journal, or add the columns it lacks."""
    _ensure(session, (Operation,))


def _ensure(session: SQLiteSession, wanted: Iterable[type[models.Model]]) -> None:
    schema = TableSchema(connections[session.alias], DatabaseSchemaEditor)
    for model in wanted:
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
    """A schema editor that uses SQLite's own ALTER TABLE.

    For most fields Django's editor recreates the table, and must know everything in it.
    """

    #: SQLite cannot add a primary key, but a unique constraint can take its place.
    sql_create_pk = DatabaseSchemaEditor.sql_create_unique
    #: The names of the row id, which every table has unless one of its columns uses the name.
    implied_columns = frozenset({"rowid", "oid", "_rowid_"})

    def add_field(self, model: type[models.Model], field: Field[Any, Any]) -> None:
        """Add the field. Raises `NotSupportedError` if existing rows cannot get it."""
        if field.primary_key or not self._has_value(field):
            raise NotSupportedError(f"SQLite cannot add {field}.")
        column = copy.copy(field)
        column._unique = False  # type: ignore[attr-defined]  # ADD COLUMN has no UNIQUE
        vars(column).pop("unique", None)  # Django caches it
        BaseDatabaseSchemaEditor.add_field(self, model, column)
        del self.collected_sql[1:]  # SQLite cannot drop a default
        if field.unique:
            name = f"{model._meta.db_table}_{field.column}_uniq"
            self.add_constraint(model, UniqueConstraint(fields=[field.name], name=name))

    def _has_value(self, field: Field[Any, Any]) -> bool:
        """Return True if existing rows can get a value of the field."""
        if isinstance(field, GeneratedField):
            return not field.db_persist  # type: ignore[attr-defined]  # a GeneratedField
        return (
            field.null
            or field.has_db_default()
            or self.effective_default(field) is not None
        )
