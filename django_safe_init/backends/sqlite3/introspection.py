"""Introspection of SQLite's catalog: tables, columns and unique indexes."""

from __future__ import annotations

import json
import os
import string
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

from django.db import connections
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

from django_safe_init.backends.base.introspection import (
    BaseIntrospection,
    Catalog,
    OperatorClass,
    Relation,
    TableIndex,
    TableKeys,
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
#: All indexes, then all foreign keys.
_KEYS = f"""
    SELECT lower(m.name) AS relation, lower(i.name) AS name, i."unique" AS is_unique, i.partial,
           lower(c.name) AS column_name, c.desc AS descending, NULL AS target, NULL AS target_column
    FROM sqlite_master m, pragma_index_list(m.name) i, pragma_index_xinfo(i.name) c
    WHERE m.type = 'table' AND c.key AND {_WANTED}
    UNION ALL
    SELECT lower(m.name), f.id, 0, 0, lower(f."from"), 0, lower(f."table"), lower(f."to")
    FROM sqlite_master m, pragma_foreign_key_list(m.name) f
    WHERE m.type = 'table' AND {_WANTED}
"""

_ROW_IDS = AlterTableSchemaEditor.implied_columns

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
        #: The tables of the last `catalog()`, and their keys.
        self._tables: dict[str, Any] = {"names": "[]"}
        self._keys: dict[TableName, SQLiteTableKeys] = {}

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
        self._tables = wanted
        rows = self._rows(_COLUMNS, wanted)
        self._keys = {
            TableName(None, row["relation"]): SQLiteTableKeys(row["relation"])
            for row in rows
        }
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

    def table_keys(self) -> dict[TableName, SQLiteTableKeys]:
        for row in self._rows(_KEYS, self._tables):
            self._keys[TableName(None, row["relation"])].add(row)
        return self._keys

    def indexes(
        self, tables: Collection[TableName]
    ) -> dict[TableName, list[TableIndex]]:
        return {name: self._keys[name].indexes for name in tables}

    @contextmanager
    def schema_editor(self) -> Iterator[BaseDatabaseSchemaEditor]:
        yield collecting_editor(AlterTableSchemaEditor, connections[self._alias])

    def close(self) -> None:
        self._close()


class SQLiteTableKeys(TableKeys):
    """The keys of a table of SQLite, from the rows of the query for them."""

    def __init__(self, table: str) -> None:
        self._table = table
        self._index_rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self._references: set[tuple[str, str, str | None]] = set()

    def add(self, row: dict[str, Any]) -> None:
        """Add a column of an index or of a foreign key."""
        if row["target"] is None:
            self._index_rows[row["name"]].append(row)
        else:
            target = row["column_name"], row["target"], row["target_column"]
            self._references.add(target)

    @property
    def indexes(self) -> list[TableIndex]:
        """Return all indexes."""
        return [
            TableIndex(
                name,
                tuple(row["column_name"] for row in rows),
                tuple(bool(row["descending"]) for row in rows),
                (OperatorClass(),) * len(rows),
                partial=bool(rows[0]["partial"]),
            )
            for name, rows in self._index_rows.items()
        ]

    def has_index(self, columns: Sequence[str]) -> bool:
        return False  # `indexes` needs no further query

    def is_unique(self, columns: Sequence[str]) -> bool:
        return False  # `Relation.uniques` needs no further query

    def references(
        self, column: str, target: SQLiteTableKeys, target_column: str
    ) -> bool:
        # A foreign key that names no column of the target leads to its primary key.
        return any(
            (column, target._table, each) in self._references
            for each in (target_column, None)
        )


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
