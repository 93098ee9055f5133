"""A connection of our own to a SQLite database."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from django.db import connections
from django.db.utils import load_backend

from django_safe_init.engines.sqlite.files import database_file
from django_safe_init.exceptions import DatabaseUnreachable, MissingPrivilege
from django_safe_init.reading import TablesLocked, TablesUnreadable
from django_safe_init.text import one_line

#: For how long a statement waits for somebody who has the file for himself.
READ_SECONDS = 1.0
WRITE_SECONDS = 10.0


class SqliteSession:
    """One autocommit connection outside Django's, opened when it is first used.

    It is made by the alias's settings. Raises `TablesLocked`, `TablesUnreadable`,
    `DatabaseUnreachable` or `MissingPrivilege`.
    """

    def __init__(self, alias: str, busy_seconds: float) -> None:
        self.alias = alias
        self._busy_seconds = busy_seconds
        self._raw: sqlite3.Connection | None = None

    def rows(
        self, statement: str, params: Sequence[Any] | dict[str, Any] = ()
    ) -> list[dict[str, Any]]:
        """The rows of the statement, by the names of their columns."""
        with self._errors():
            cursor = self._connection().execute(statement, params)
            names = [column[0] for column in cursor.description or ()]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """While entered, all reads see one and the same moment. Not for long: it delays commits."""
        with self._transaction("BEGIN"):
            yield

    @contextmanager
    def writing(self) -> Iterator[None]:
        """A transaction that nobody else writes in the meantime of."""
        with self._transaction("BEGIN IMMEDIATE"):
            yield

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[None]:
        self.rows(begin)
        try:
            yield
            self.rows("COMMIT")
        except BaseException:
            self._connection().rollback()
            raise

    def _connection(self) -> sqlite3.Connection:
        if self._raw is None:
            values = dict(connections.settings[self.alias])
            wrapper = load_backend(values["ENGINE"]).DatabaseWrapper(values, self.alias)
            self._raw = wrapper.get_new_connection(wrapper.get_connection_params())
            self._raw.isolation_level = None  # no transactions that nobody asked for
            milliseconds = round(self._busy_seconds * 1000)
            self._raw.execute(f"PRAGMA busy_timeout = {milliseconds}")
        return self._raw

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as exc:
            raise self._meaning(one_line(exc)) from exc

    def _meaning(self, text: str) -> Exception:
        if is_locked(text):
            return TablesLocked(text)
        if text.startswith("no such table"):
            return TablesUnreadable(text)
        file = database_file(self.alias)
        if "readonly" in text:
            return MissingPrivilege(
                f"The database {self.alias!r} is read-only for this user: {file}. Let it write "
                "the file and its folder."
            )
        return DatabaseUnreachable(
            f"The database {self.alias!r} cannot be used: {text}: {file}. Check NAME, and that "
            "this user may read and write the file."
        )

    def close(self) -> None:
        """Close the connection; the next use opens another."""
        raw, self._raw = self._raw, None
        if raw is not None:
            raw.close()


def is_locked(text: str) -> bool:
    """Whether an error says that somebody else uses the database just now."""
    return "database is locked" in text or "table is locked" in text
