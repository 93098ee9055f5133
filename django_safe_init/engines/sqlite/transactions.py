"""How the transaction of a migration begins on SQLite: without foreign keys, and alone."""

from __future__ import annotations

from typing import Any

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from django_safe_init.transactions import RECORDED, MigrationTransaction, Names


class SqliteTransaction(MigrationTransaction):
    """The transactions of a run's migrations.

    Django's schema editor needs foreign keys off, which cannot be switched inside a transaction
    (https://www.sqlite.org/foreignkeys.html, section 2): they are off around all of it.
    """

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        super().__init__(connection)
        self._names: Names | None = None

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
        self._names = names

    def _look(self) -> Names | None:
        names, self._names = self._names, None
        if names is None:
            return None
        is_one_of = " OR ".join(["app = ? AND name = ?"] * len(names))
        flat = [part for name in names for part in name]
        # On the driver's connection: this is no statement of the migration.
        rows = self.connection.connection.execute(RECORDED + is_one_of, flat)
        return set(rows.fetchall())

    def _close(self, atomic: transaction.Atomic, exc_info: tuple[Any, ...]) -> None:
        self._names = None
        try:
            super()._close(atomic, exc_info)
        finally:
            if self.connection.connection is not None:
                self.connection.enable_constraint_checking()

    def _before_hooks(self) -> None:
        """Nothing: each commit waits for the disk, as far as the project wants that."""

    def _has_ended(self) -> bool:
        return not self.connection.connection.in_transaction

    def _rolls_back(self, statement: str, cursor: Any) -> bool:
        return statement.lstrip().upper().startswith("ROLLBACK")
