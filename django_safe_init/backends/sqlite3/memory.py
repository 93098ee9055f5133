"""Provide the backend for a SQLite database in memory, which only one process can reach."""

from __future__ import annotations

from typing import Any

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from django_safe_init.backends.base.backend import BaseBackend
from django_safe_init.backends.base.record_reader import RecordReader
from django_safe_init.backends.sqlite3.introspection import SQLiteIntrospection


class MemoryReader(RecordReader):
    """A reader on this thread's connection, which belongs to Django."""

    def _connection(self) -> BaseDatabaseWrapper:
        return connections[self.alias]

    def close(self) -> None:
        """Do nothing: to close the connection would delete the database."""


class MemoryBackend(BaseBackend):
    """A backend on Django's own connection, because any other opens another database."""

    def reader(self) -> MemoryReader:
        return MemoryReader(self.context.alias, self.context.build)

    def introspection(self) -> SQLiteIntrospection:
        return SQLiteIntrospection(self.context.alias, self._rows)

    def _rows(
        self, statement: str, parameters: dict[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        connection = connections[self.context.alias]
        connection.ensure_connection()
        cursor = connection.connection.execute(statement, parameters or {})
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]
