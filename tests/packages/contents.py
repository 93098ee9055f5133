"""The rows of a database as texts that are equal after each complete migration.

Left out are the generated ids, which have gaps after a refused attempt, and what is new in each
database: times and UUIDs. A foreign key is shown as the row that it names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date
from typing import Any
from uuid import UUID

from tests.resume.engines import Engine

#: A time or a UUID of SQLite, or a hash of one.
_NEW = re.compile(r"\d{4}-\d\d-\d\d[ T][\d:.]+(\+00:00)?|[0-9a-f]{32}|[0-9a-f]{56,64}")
#: Foreign keys are followed so far.
_DEPTH = 4
_FOREIGN_KEYS = """
    SELECT a.attname AS column, c.confrelid::regclass::text AS target, b.attname AS key
    FROM pg_constraint AS c
    JOIN pg_attribute AS a ON a.attrelid = c.conrelid AND a.attnum = c.conkey[1]
    JOIN pg_attribute AS b ON b.attrelid = c.confrelid AND b.attnum = c.confkey[1]
    WHERE c.contype = 'f' AND c.conrelid = %s::regclass AND cardinality(c.conkey) = 1
"""
_SQLITE_FOREIGN_KEYS = (
    'SELECT "from" AS column, "table" AS target, coalesce("to", \'id\') AS key'
    " FROM pragma_foreign_key_list(?)"
)


class Contents:
    """The rows of all tables, without the package's."""

    def __init__(self, engine: Engine, database: Any) -> None:
        self._rows: dict[str, list[dict[str, Any]]] = {}
        self._targets: dict[str, dict[str, tuple[str, str]]] = {}
        postgres = engine.name == "postgresql"
        for table in engine.tables(database):
            self._rows[table] = database.rows(f'SELECT * FROM "{table}"')
            keys = (
                database.rows(_FOREIGN_KEYS, f'"{table}"')
                if postgres
                else database.rows(_SQLITE_FOREIGN_KEYS, table)
            )
            self._targets[table] = {
                each["column"]: (each["target"].strip('"'), each["key"])
                for each in keys
            }

    def texts(self) -> dict[str, list[str]]:
        """Return the sorted texts of each table's rows."""
        return {
            table: sorted(self._text(table, row, _DEPTH) for row in rows)
            for table, rows in self._rows.items()
        }

    def _text(self, table: str, row: dict[str, Any], depth: int) -> str:
        return f"{table}({', '.join(self._parts(table, row, depth))})"

    def _parts(self, table: str, row: dict[str, Any], depth: int) -> Iterator[str]:
        for name, value in row.items():
            target = self._targets[table].get(name)
            if target and value is not None:
                yield f"{name}={self._named(*target, value, depth - 1)}"
            elif name != "id":
                yield f"{name}={_stable(value)}"

    def _named(self, table: str, key: str, value: Any, depth: int) -> str:
        if not depth or table not in self._rows:
            return "..."
        found = (row for row in self._rows[table] if row[key] == value)
        row = next(found, None)
        return "no row" if row is None else self._text(table, row, depth)


def _stable(value: Any) -> str:
    if isinstance(value, (date, UUID)):
        return "new"
    if isinstance(value, (bytes, memoryview)):
        return f"{len(value)} bytes"  # maybe a secret
    return "new" if isinstance(value, str) and _NEW.fullmatch(value) else repr(value)
