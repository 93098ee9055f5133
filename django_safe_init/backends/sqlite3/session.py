"""Open a dedicated connection to a SQLite database."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from django.db import connections
from django.db.utils import load_backend

from django_safe_init.backends.base.lock import LockWaitTimeout
from django_safe_init.backends.sqlite3.paths import database_file, is_uri
from django_safe_init.core import cancellation
from django_safe_init.core.deadline import Deadline
from django_safe_init.core.records import TablesLocked, TablesUnreadable
from django_safe_init.core.text import one_line
from django_safe_init.exceptions import (
    DatabaseUnreachable,
    InitializationFailed,
    MissingPrivilege,
    UnsafeConnection,
)

#: The seconds that a statement waits while another connection locks the file.
_BUSY_SECONDS = 1.0
#: Errors of statements on a table that this package has not created.
_FOREIGN_TABLE = ("already exists", "no such column", "has no column", "is a view")
#: The seconds that a writing transaction waits for other connections.
WRITE_TIMEOUT_SECONDS = 60.0
#: The shortest limit of that wait, so that a run whose time is over can record its end.
MIN_WRITE_TIMEOUT_SECONDS = 2.0


class SQLiteSession:
    """An autocommit connection with the alias's settings, opened on first use.

    Every method raises `TablesLocked`, `TablesUnreadable`, `DatabaseUnreachable` or
    `MissingPrivilege`.
    """

    def __init__(self, alias: str, deadline: Deadline | None = None) -> None:
        self.alias = alias
        self._deadline = deadline or Deadline(None)
        self._raw: sqlite3.Connection | None = None

    def rows(
        self, statement: str, params: Sequence[Any] | dict[str, Any] = ()
    ) -> list[dict[str, Any]]:
        """Return the rows of the statement as dicts, by column name.

        Parameters are written `:name`, or `%(name)s` as in `base.statements`.
        """
        with self._translate_errors():
            cursor = self._connection().execute(_named(statement), params)
            names = [column[0] for column in cursor.description or ()]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def tuples(
        self, statement: str, params: Mapping[str, Any]
    ) -> list[tuple[Any, ...]]:
        """Return the rows of the statement as tuples; parameters as in `rows`."""
        with self._translate_errors():
            cursor = self._connection().execute(_named(statement), dict(params))
            return cursor.fetchall()

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Let all reads in the block see one state of the database.

        The block must be short, because it delays commits of other connections.
        """
        with self._transaction("BEGIN"):
            yield

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Run the block in a transaction that excludes other writers, after waiting for them.

        Raises `InitializationFailed` if they need more than `WRITE_TIMEOUT_SECONDS`.
        """
        with self._transaction("BEGIN IMMEDIATE", self._retry_while_locked):
            yield

    @contextmanager
    def _transaction(
        self, begin: str, execute: Callable[[str], object] | None = None
    ) -> Iterator[None]:
        execute = execute or self.rows
        execute(begin)
        try:
            yield
            execute("COMMIT")
        except BaseException:
            self._connection().rollback()
            raise

    def _retry_while_locked(self, statement: str) -> None:
        """Execute the statement as soon as the file is free. A reader can delay a commit."""
        seconds = self._deadline.clip(WRITE_TIMEOUT_SECONDS)
        deadline = Deadline(max(seconds, MIN_WRITE_TIMEOUT_SECONDS))
        while True:
            try:
                self.rows(statement)
            except TablesLocked as exc:
                cancellation.check()
                if deadline.passed():
                    if self._deadline.passed():
                        raise LockWaitTimeout(
                            f"Another program kept {database_file(self.alias)} locked for "
                            f"longer than this process may wait: {exc}. End it, and try again."
                        ) from exc
                    raise InitializationFailed(
                        f"Another program has been using {database_file(self.alias)} for more "
                        f"than {WRITE_TIMEOUT_SECONDS:g} s: {exc}. End it, and try again."
                    ) from exc
            else:
                return

    def _connection(self) -> sqlite3.Connection:
        if self._raw is None:
            values = dict(connections.settings[self.alias])
            if not is_uri(str(values["NAME"])):
                values["NAME"] = database_file(self.alias)
            wrapper = load_backend(values["ENGINE"]).DatabaseWrapper(values, self.alias)
            self._raw = wrapper.get_new_connection(wrapper.get_connection_params())
            self._raw.isolation_level = None  # no implicit transactions
            milliseconds = round(_BUSY_SECONDS * 1000)
            self._raw.execute(f"PRAGMA busy_timeout = {milliseconds}")
        return self._raw

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as exc:
            raise self._translated(one_line(exc)) from exc

    def _translated(self, text: str) -> Exception:
        if is_locked(text):
            return TablesLocked(text)
        if text.startswith("no such table"):
            return TablesUnreadable(text)
        file = database_file(self.alias)
        if any(part in text for part in _FOREIGN_TABLE):
            return UnsafeConnection(
                f"A table or view in {file} has the name of a table of this package, and is "
                f"another one: {text}. Rename or drop it."
            )
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


def _named(statement: str) -> str:
    """Return the statement with SQLite's own style of parameters."""
    return re.sub(r"%\((\w+)\)s", r":\1", statement)


def is_locked(text: str) -> bool:
    """Return True if an error of SQLite says that another connection uses the database."""
    return "database is locked" in text or "table is locked" in text
