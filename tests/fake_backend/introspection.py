"""Read the catalog with Django's own introspection."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

from django_safe_init.backends.base.introspection import (
    BaseIntrospection,
    Catalog,
    Relation,
    TableName,
    UniqueIndex,
    collecting_editor,
)


class FakeIntrospection(BaseIntrospection):
    """Describes tables, columns and unique constraints, as Django sees them."""

    def __init__(self, alias: str) -> None:
        self._connection = connections.create_connection(alias)

    def recorded_migrations(self) -> list[str]:
        return recorded_migrations(self._connection)

    def catalog(self, names: Iterable[TableName]) -> Catalog:
        present = set(self._connection.introspection.table_names())
        return Catalog(
            {each: self._relation(each.name) for each in names if each.name in present}
        )

    def _relation(self, table: str) -> Relation:
        introspection = self._connection.introspection
        with self._connection.cursor() as cursor:
            columns = introspection.get_table_description(cursor, table)
            constraints = introspection.get_constraints(cursor, table)
        uniques = [
            UniqueIndex(name, frozenset(each["columns"]))
            for name, each in constraints.items()
            if each["unique"] or each["primary_key"]
        ]
        return Relation(frozenset(each.name for each in columns), tuple(uniques))

    @contextmanager
    def schema_editor(self) -> Iterator[BaseDatabaseSchemaEditor]:
        yield collecting_editor(self._connection.SchemaEditorClass, self._connection)

    def close(self) -> None:
        self._connection.close()


def recorded_migrations(connection: BaseDatabaseWrapper) -> list[str]:
    """Return the rows of `django_migrations` as `app.name`, oldest first.

    Django's `MigrationRecorder` would read them on the connection of the alias.
    """
    with connection.cursor() as cursor:
        if "django_migrations" not in connection.introspection.table_names(cursor):
            return []
        cursor.execute("SELECT app, name FROM django_migrations ORDER BY id")
        return [".".join(row) for row in cursor.fetchall()]
