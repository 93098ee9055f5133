"""Begin and end the transaction of a migration on the fake."""

from __future__ import annotations

from typing import Any

from django.db import transaction

from django_safe_init.backends.base.transaction import (
    MigrationTransaction,
    Names,
    recorded_sql,
)

#: Exists until the transaction that created it is undone.
_SENTINEL = "safe_init_fake"


class FakeTransaction(MigrationTransaction):
    """The transactions of a run's migrations, through Django's connection."""

    def _begin(self, atomic: transaction.Atomic, names: Names) -> None:
        self.connection.disable_constraint_checking()  # for the schema editor
        self._raw.execute(f"DROP TABLE IF EXISTS temp.{_SENTINEL}")
        atomic.__enter__()
        self._raw.execute(f"CREATE TEMP TABLE {_SENTINEL} (x)")
        self._names: Names | None = names

    def _recorded_names(self) -> Names | None:
        names, self._names = self._names, None
        if names is None:
            return None
        flat = [part for name in names for part in name]
        return set(self._raw.execute(recorded_sql(self.connection, "?", names), flat))

    def has_ended(self) -> bool:
        return not self._raw.in_transaction

    def _was_rolled_back(self, cursor: Any) -> bool:
        found = "SELECT 1 FROM sqlite_temp_master WHERE name = ?"
        return self._raw.execute(found, [_SENTINEL]).fetchone() is None

    @property
    def _raw(self) -> Any:
        return self.connection.connection
