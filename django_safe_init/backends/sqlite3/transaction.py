"""How the transaction of a migration begins on SQLite: without foreign keys, and alone."""

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

#: Is there as long as the transaction that made it was not undone.
_SENTINEL_TABLE = "safe_init_transaction"
_CREATE_SENTINEL = f"CREATE TEMP TABLE {_SENTINEL_TABLE} (x)"
_DROP_SENTINEL = f"DROP TABLE IF EXISTS temp.{_SENTINEL_TABLE}"
_FIND_SENTINEL = f"SELECT 1 FROM sqlite_temp_master WHERE name = '{_SENTINEL_TABLE}'"


class SQLiteTransaction(MigrationTransaction):
    """The transactions of a run's migrations.

    Django's schema editor needs foreign keys off, which cannot be switched inside a transaction
    (https://www.sqlite.org/foreignkeys.html, section 2): they are off around all of it.

    SQLite ends a transaction by itself on some errors, and when a statement is interrupted
    (https://www.sqlite.org/lang_transaction.html, section 3). A migration that goes on after
    such an error would be recorded with half of its work, so each statement is preceded by a look.
    """

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        connection.SchemaEditorClass = _plain_about_errors(connection.SchemaEditorClass)
        super().__init__(connection)
        self._names: Names | None = None

    @property
    def _raw(self) -> Any:
        """The driver's connection: what is done there is no statement of the migration."""
        return self.connection.connection

    def _begin(self, atomic: transaction.Atomic, names: Names) -> None:
        """Nobody else writes from here on, so what is seen as recorded stays so."""
        connection: Any = self.connection
        connection.disable_constraint_checking()
        chosen = connection.transaction_mode
        connection.transaction_mode = "IMMEDIATE"
        try:
            atomic.__enter__()
        except BaseException:
            connection.enable_constraint_checking()
            raise
        finally:
            connection.transaction_mode = chosen
        self._raw.execute(_CREATE_SENTINEL)
        self._names = names

    def _recorded_names(self) -> Names | None:
        names, self._names = self._names, None
        if names is None:
            return None
        flat = [part for name in names for part in name]
        return set(self._raw.execute(recorded_sql("?", names), flat).fetchall())

    def _execute_wrapper(self, execute: Callable[..., Any], *args: Any) -> Any:
        """Notice also what has ended the transaction without being a statement of Django's."""
        self._check_still_open(args[-1]["cursor"])
        return super()._execute_wrapper(execute, *args)

    def _close(self, atomic: transaction.Atomic, exc_info: tuple[Any, ...]) -> None:
        self._names = None
        with suppress(sqlite3.ProgrammingError):  # closed by the migration
            self._raw.execute(_DROP_SENTINEL)
        try:
            super()._close(atomic, exc_info)
        finally:
            if self.connection.connection is not None:
                self.connection.enable_constraint_checking()

    def _before_on_commit(self) -> None:
        """Nothing: each commit waits for the disk, as far as the project wants that."""

    def has_ended(self) -> bool:
        return not self._raw.in_transaction

    def _was_rolled_back(self, cursor: Any) -> bool:
        return self._raw.execute(_FIND_SENTINEL).fetchone() is None


def _plain_about_errors(
    base: type[BaseDatabaseSchemaEditor],
) -> type[BaseDatabaseSchemaEditor]:
    """A schema editor that lets an error of a migration through as it is.

    Django's own looks for broken foreign keys then, too, which fails because of the error, and
    hides it.
    """

    # The ignored errors: the base is whatever the connection has, known only when it runs.
    class ErrorPreservingSchemaEditor(base):  # type: ignore[misc, valid-type]
        def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
            if kind is None:
                super().__exit__(kind, error, traceback)
                return
            BaseDatabaseSchemaEditor.__exit__(self, kind, error, traceback)
            self.connection.enable_constraint_checking()

    return ErrorPreservingSchemaEditor
