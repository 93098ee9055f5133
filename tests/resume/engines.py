"""Databases of each engine: copies of a base, and a text of everything in them."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from example_project.embedded import EmbeddedServer, bin_dir
from tests.support import Database, SqliteDatabase, wait_until

#: The tables of the package, which an uninterrupted run of plain Django does not fill.
OWN = "django_safe_init"
#: Columns whose values are taken from a sequence: a refused attempt leaves a gap.
_GENERATED = "id"
_TIMES = ("applied",)
_numbers = count(1)


class Engine(ABC):
    """One database engine, which makes databases and describes them."""

    name: str

    @contextmanager
    @abstractmethod
    def database(self, base: Any = None) -> Iterator[Any]:
        """Yield a new database: empty, or a copy of another one."""

    @abstractmethod
    def version(self) -> str: ...

    @abstractmethod
    def schema(self, database: Any) -> list[str]:
        """Return the definition of everything in the database, without the package's tables."""

    @abstractmethod
    def tables(self, database: Any) -> list[str]:
        """Return the names of the tables, without the package's."""

    @abstractmethod
    def settle(self, database: Any) -> None:
        """Wait until the work of killed processes has ended."""

    def rows(self, database: Any) -> dict[str, list[str]]:
        """Return the sorted rows of each table, without the generated ids."""
        found = {}
        for table in self.tables(database):
            rows = database.rows(f'SELECT * FROM "{table}"')
            found[table] = sorted(
                str({key: row[key] for key in row if key not in (_GENERATED, *_TIMES)})
                for row in rows
            )
        return found


class PostgresEngine(Engine):
    name = "postgresql"

    def __init__(self, server: EmbeddedServer) -> None:
        self.server = server

    @contextmanager
    def database(self, base: Any = None) -> Iterator[Database]:
        name = f"resume_{os.getpid()}_{next(_numbers)}"
        if base is not None:
            self.settle(base)
            base.close()
        self.server.create_database(name, base.name if base else "template0")
        made = Database(name, self.server.params())
        try:
            yield made
        finally:
            made.close()
            self.server.drop_database(name)

    def version(self) -> str:
        with self.server.connect() as connection:
            row = connection.execute("SHOW server_version").fetchone()
        assert row is not None
        return f"PostgreSQL {row[0]}"

    def schema(self, database: Database) -> list[str]:
        """Return the lines of `pg_dump -s`, and the invalid indexes, which it leaves out."""
        command = [
            str(bin_dir(self.server.version) / "pg_dump"),
            *("--schema-only", "--host", self.server.host, "--username=postgres"),
            *("--port", str(self.server.port), f"--exclude-table={OWN}_*"),
            database.name,
        ]
        dump = subprocess.run(command, check=True, capture_output=True, text=True)
        lines = [
            line
            for line in dump.stdout.splitlines()
            if line.strip() and not line.startswith(("\\restrict", "\\unrestrict"))
        ]
        invalid = database.rows(
            "SELECT indexrelid::regclass::text AS name FROM pg_index"
            " WHERE NOT (indisvalid AND indisready) ORDER BY 1"
        )
        return [*lines, *(f"-- INVALID INDEX {row['name']}" for row in invalid)]

    def tables(self, database: Database) -> list[str]:
        rows = database.rows(
            "SELECT relname AS name FROM pg_class WHERE relkind IN ('r', 'p')"
            " AND relnamespace = 'public'::regnamespace ORDER BY 1"
        )
        return [row["name"] for row in rows if not row["name"].startswith(OWN)]

    def settle(self, database: Database) -> None:
        wait_until(lambda: not database.backends())


class SqliteEngine(Engine):
    name = "sqlite"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def database(self, base: Any = None) -> Iterator[SqliteDatabase]:
        folder = self.folder / f"sqlite-{os.getpid()}-{next(_numbers)}"
        folder.mkdir()
        made = SqliteDatabase(folder / "db.sqlite3")
        if base is not None:
            shutil.copyfile(base.file, made.file)
        try:
            yield made
        finally:
            shutil.rmtree(folder)

    def version(self) -> str:
        return f"SQLite {sqlite3.sqlite_version}"

    def schema(self, database: SqliteDatabase) -> list[str]:
        rows = database.rows(
            "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name"
        )
        return [str(row) for row in rows if not row["tbl_name"].startswith(OWN)]

    def tables(self, database: SqliteDatabase) -> list[str]:
        rows = database.rows("SELECT name FROM sqlite_master WHERE type = 'table'")
        return sorted(
            row["name"] for row in rows if not row["name"].startswith((OWN, "sqlite_"))
        )

    def settle(self, database: SqliteDatabase) -> None:
        """Return at once: the work ends with its process."""
