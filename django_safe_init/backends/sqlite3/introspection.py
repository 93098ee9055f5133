"""Introspection of SQLite's catalog: tables, columns and unique indexes."""

from __future__ import annotations

import json
import os
import string
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import Any

from django.db import connections
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

from django_safe_init.backends.base.introspection import (
    BaseIntrospection,
    Catalog,
    Relation,
    TableName,
    UniqueIndex,
    collecting_editor,
)
from django_safe_init.backends.sqlite3.paths import database_file
from django_safe_init.backends.sqlite3.schema import AlterTableSchemaEditor
from django_safe_init.backends.sqlite3.session import SQLiteSession
from django_safe_init.core.databases import quoted_migration_table

_HAS_MIGRATIONS = "SELECT name FROM sqlite_master WHERE lower(name) = lower(:table)"
_WANTED = "lower(m.name) IN (SELECT value FROM json_each(:names))"
#: `table_xinfo` includes generated columns. Views and virtual tables have no root page.
_COLUMNS = f"""
    SELECT lower(m.name) AS relation, m.rootpage, lower(c.name) AS column_name, c.pk
    FROM sqlite_master m, pragma_table_xinfo(m.name) c
    WHERE m.type IN ('table', 'view') AND {_WANTED} ORDER BY 1
"""
#: An expression has no column name.
_UNIQUES = f"""
    SELECT lower(m.name) AS relation, lower(i.name) AS name, i.partial,
           lower(c.name) AS column_name
    FROM sqlite_master m, pragma_index_list(m.name) i, pragma_index_xinfo(i.name) c
    WHERE m.type = 'table' AND i."unique" AND c.key AND {_WANTED}
"""

#: The names of the row id, which every table has unless one of its columns uses the name.
_ROW_IDS = frozenset({"rowid", "oid", "_rowid_"})

Rows = Callable[..., list[dict[str, Any]]]


class SQLiteIntrospection(BaseIntrospection):
    """Introspection with a function that runs a query on SQLite.

    `issues()` finds nothing: SQLite has no invalid indexes and no NOT VALID constraints.
    """

    def __init__(
        self, alias: str, rows: Rows, close: Callable[[], None] = lambda: None
    ) -> None:
        self._alias = alias
        self._rows = rows
        self._close = close

    def recorded_migrations(self) -> list[str]:
        table = quoted_migration_table(connections[self._alias])
        if not self._rows(_HAS_MIGRATIONS, {"table": table.strip('"')}):
            return []
        rows = self._rows(f"SELECT app || '.' || name AS name FROM {table} ORDER BY id")
        return [row["name"] for row in rows]

    def catalog(self, names: Iterable[TableName]) -> Catalog:
        wanted = {
            "names": json.dumps([normalize_identifier(each.name) for each in names])
        }
        rows = self._rows(_COLUMNS, wanted)
        uniques = self._uniques(wanted)
        return Catalog(
            {
                TableName(None, name): _relation(list(columns), uniques[name])
                for name, columns in groupby(rows, lambda row: row["relation"])
            },
            normalize_identifier,
            all_schemas=False,
        )

    def _uniques(self, wanted: dict[str, str]) -> dict[str, list[UniqueIndex]]:
        columns: dict[tuple[str, str], list[str | None]] = defaultdict(list)
        partial: set[str] = set()
        for row in self._rows(_UNIQUES, wanted):
            columns[row["relation"], row["name"]].append(row["column_name"])
            if row["partial"]:
                partial.add(row["name"])
        found: dict[str, list[UniqueIndex]] = defaultdict(list)
        for (table, name), keys in columns.items():
            plain = name not in partial and None not in keys
            named = frozenset(key for key in keys if key is not None)
            found[table].append(UniqueIndex(name, named, plain))
        return found

    @contextmanager
    def schema_editor(self) -> Iterator[BaseDatabaseSchemaEditor]:
        yield collecting_editor(AlterTableSchemaEditor, connections[self._alias])

    def close(self) -> None:
        self._close()


def open_introspection(alias: str) -> SQLiteIntrospection:
    """Open the introspection of a database file, without creating the file."""
    if not os.path.exists(database_file(alias)):
        return SQLiteIntrospection(alias, lambda *arguments: [])
    session = SQLiteSession(alias)
    return SQLiteIntrospection(alias, session.rows, session.close)


def _relation(rows: list[dict[str, Any]], uniques: list[UniqueIndex]) -> Relation:
    """Return the relation with these columns and indexes, the row id included."""
    columns = {row["column_name"] for row in rows}
    keys = [{row["column_name"] for row in rows if row["pk"]}]
    keys += [{name} for name in _ROW_IDS - columns]
    implied = [UniqueIndex("", frozenset(key)) for key in keys]
    indexable = bool(rows[0]["rootpage"])
    return Relation(frozenset(columns | _ROW_IDS), (*uniques, *implied), indexable)


_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


def normalize_identifier(name: str) -> str:
    """Return the identifier with A to Z in lower case, as SQLite compares identifiers."""
    return name.translate(_LOWER)
