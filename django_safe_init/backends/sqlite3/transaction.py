"""Begin and end the transaction of a migration on SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

from django_safe_init.backends.base.transaction import (
    MigrationTransaction,
    Names,
    recorded_sql,
)

#: A temporary table that a rollback of the migration's transaction removes.
_SENTINEL_TABLE = "safe_init_transaction"
_CREATE_SENTINEL = f"CREATE TEMP TABLE {_SENTINEL_TABLE} (x)"
_DROP_SENTINEL = f"DROP TABLE IF EXISTS temp.{_SENTINEL_TABLE}"
_FIND_SENTINEL = f"SELECT 1 FROM sqlite_temp_master WHERE name = '{_SENTINEL_TABLE}'"


class SQLiteTransaction(MigrationTransaction):
    """The transactions of a run's migrations.

    Django's schema editor needs foreign keys off. SQLite cannot switch them inside a transaction
    (https://www.sqlite.org/foreignkeys.html, section 2), so they are off around the transaction.

    SQLite ends a transaction on some errors, and if a statement is interrupted
    (https://www.sqlite.org/lang_transaction.html, section 3). A migration that continues after
    such an error would be recorded with half of its work. Each statement is therefore preceded by
    a check.
    """

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        connection.SchemaEditorClass = _preserving_errors(connection.SchemaEditorClass)
        super().__init__(connection)
        self._names: Names | None = None

    @property
    def _raw(self) -> Any:
        """Return the driver's connection, whose statements pass no execute wrapper."""
        return self.connection.connection

    def _begin(self, atomic: transaction.Atomic, names: Names) -> None:
        """Begin, and exclude other writers, so that the recorded names stay the same."""
        connection: Any = self.connection
        connection.disable_constraint_checking()
        configured = connection.transaction_mode
        connection.transaction_mode = "IMMEDIATE"
        try:
            atomic.__enter__()
        except BaseException:
            if not self._in_editor:
                connection.enable_constraint_checking()
            raise
        finally:
            connection.transaction_mode = configured
        self._raw.execute(_CREATE_SENTINEL)
        self._names = names

    def _recorded_names(self) -> Names | None:
        names, self._names = self._names, None
        if names is None:
            return None
        flat = [part for name in names for part in name]
        return set(
            self._raw.execute(
                recorded_sql(self.connection, "?", names), flat
            ).fetchall()
        )

    def _execute_wrapper(self, execute: Callable[..., Any], *args: Any) -> Any:
        """Also notice an end of the transaction that no statement of Django caused."""
        self._check_still_open(args[-1]["cursor"])
        return super()._execute_wrapper(execute, *args)

    def _close(self, atomic: transaction.Atomic, error: BaseException | None) -> None:
        self._names = None
        with suppress(sqlite3.ProgrammingError):  # closed by the migration
            self._raw.execute(_DROP_SENTINEL)
        try:
            super()._close(atomic, error)
        finally:
            if self.connection.connection is not None and not self._in_editor:
                self.connection.enable_constraint_checking()

    def has_ended(self) -> bool:
        return not self._raw.in_transaction

    def _was_rolled_back(self, cursor: Any) -> bool:
        return self._raw.execute(_FIND_SENTINEL).fetchone() is None


def _preserving_errors(
    base: type[BaseDatabaseSchemaEditor],
) -> type[BaseDatabaseSchemaEditor]:
    """Return a schema editor class that raises a migration's own error.

    After an error, Django's editor would check foreign keys. That check fails because of the
    error, and hides it.
    """

    # The base class is known only at run time, hence the ignored errors.
    class ErrorPreservingSchemaEditor(base):  # type: ignore[misc, valid-type]
        def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
            if kind is None:
                super().__exit__(kind, error, traceback)
                return
            BaseDatabaseSchemaEditor.__exit__(self, kind, error, traceback)
            self.connection.enable_constraint_checking()

    return ErrorPreservingSchemaEditor
