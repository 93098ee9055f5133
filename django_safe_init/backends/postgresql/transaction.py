"""Begin and end the transaction of a migration on PostgreSQL."""

from __future__ import annotations

from typing import Any

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg.pq import TransactionStatus

from django_safe_init.backends.base.transaction import (
    MigrationTransaction,
    Names,
    recorded_sql,
)
from django_safe_init.backends.postgresql.pipeline import PendingQuery
from django_safe_init.backends.tenants import get_tenancy

#: Where a commit waits for standbys, it still does: a failover keeps it.
ASYNCHRONOUS = """
    SELECT pg_catalog.set_config('synchronous_commit', 'off', true)
    WHERE pg_catalog.current_setting('synchronous_standby_names') OPERATOR(pg_catalog.=) '';
"""
#: The operator that no other role can replace on the project's search path.
_EQUALS = "OPERATOR(pg_catalog.=)"


class PostgresTransaction(MigrationTransaction):
    """The transactions of a run's migrations.

    They commit without waiting for the disk, unless the server has synchronous standbys. A
    later commit is never on disk before an earlier one (PostgreSQL manual, 28.4). So a crash of
    the server loses whole migrations with their records, newest first. The end of the run waits
    for the disk, and with it for all migrations.

    A crash cannot undo the effects of `on_commit()` functions outside the database, so a commit
    before such functions waits too.
    """

    def __init__(
        self, connection: BaseDatabaseWrapper, lock_timeout: str | None = None
    ) -> None:
        super().__init__(connection)
        self._sent: PendingQuery | None = None
        self._tenancy = get_tenancy(connection.alias)
        self._lock_timeout = (
            ""
            if lock_timeout is None
            else f"SET LOCAL lock_timeout = '{lock_timeout}'; "
        )

    def _begin(self, atomic: transaction.Atomic, names: Names) -> None:
        """Send BEGIN and the query; `_recorded_names` receives the result.

        In between, Django computes the migration's changes, which takes longer.
        """
        if self._tenancy is not None:
            self._tenancy.forget_path(self.connection)
            with self.connection.cursor():
                pass  # a package sets the search path of the active schema with a cursor
        atomic.__enter__()
        raw = self.connection.connection
        level = raw.isolation_level
        begin = (
            f"BEGIN ISOLATION LEVEL {level.name.replace('_', ' ')}"
            if level
            else "BEGIN"
        )
        is_limited = self._is_limited and not self.has_own_lock_timeout
        limit = self._lock_timeout if is_limited else ""
        recorded = recorded_sql(self.connection, "%s", names, _EQUALS)
        self._sent = PendingQuery(
            raw,
            f"{begin}; {ASYNCHRONOUS}{limit}{recorded}",
            [part for name in names for part in name],
        )

    def _recorded_names(self) -> Names | None:
        sent, self._sent = self._sent, None
        return None if sent is None else set(sent.rows())

    def _close(self, atomic: transaction.Atomic, error: BaseException | None) -> None:
        if self._sent is not None:
            self._sent.wait()  # the migration failed before its first statement
            self._sent = None
        super()._close(atomic, error)

    def has_ended(self) -> bool:
        raw = self.connection.connection
        return bool(raw.info.transaction_status == TransactionStatus.IDLE)

    def _was_rolled_back(self, cursor: Any) -> bool:
        return bool(cursor.statusmessage == "ROLLBACK")

    def _before_on_commit(self) -> None:
        with self.connection.cursor() as cursor:
            cursor.execute("SET LOCAL synchronous_commit TO DEFAULT")
