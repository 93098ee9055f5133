"""Provide the session of a run on PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import psycopg
from django.contrib.postgres.operations import RemoveIndexConcurrently
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.operations.base import Operation

from django_safe_init.backends.base.context import Context
from django_safe_init.backends.base.journal import JournalWriter
from django_safe_init.backends.base.lock import LockWaitTimeout
from django_safe_init.backends.base.run_session import (
    ErrorKind,
    IndexCondition,
    RunSession,
)
from django_safe_init.backends.base.sql_effects import SQLEffect
from django_safe_init.backends.postgresql.connection_checks import inspect_connection
from django_safe_init.backends.postgresql.errors import (
    is_lost_connection,
    is_read_only,
    is_time_out,
    needs_no_transaction,
)
from django_safe_init.backends.postgresql.introspection import (
    PostgresIntrospection,
    concurrent_index,
    drop_index,
    drop_leftover,
    existing_indexes,
    index_condition,
)
from django_safe_init.backends.postgresql.lock import AdvisoryLock
from django_safe_init.backends.postgresql.lock_timeout import PostgresLockTimeout
from django_safe_init.backends.postgresql.reader import PostgresReader
from django_safe_init.backends.postgresql.recorder import PostgresRecorder
from django_safe_init.backends.postgresql.repair import run_repair
from django_safe_init.backends.postgresql.run_connections import FencedConnections
from django_safe_init.backends.postgresql.sql_effects import effect_of
from django_safe_init.backends.postgresql.statement_progress import StatementProgress
from django_safe_init.backends.postgresql.transaction import PostgresTransaction
from django_safe_init.core.text import exception_chain

#: Errors after which another attempt of the same migration may succeed.
_TRANSIENT = (
    psycopg.errors.SerializationFailure,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.LockNotAvailable,
)


class PostgresRunSession(RunSession):
    """A run that records on the leader session and migrates on fenced connections."""

    reader: PostgresReader
    recorder: PostgresRecorder
    lock_timeout: PostgresLockTimeout

    def __init__(self, context: Context, lock: AdvisoryLock) -> None:
        settings, session = context.settings, lock.session
        session.patience = None  # no limit of waiting applies to a run
        self.context = context
        self._session = session
        self.lock = lock
        self._fenced = FencedConnections(
            context.alias, lock, context.direct, context.deadline
        )
        self.reader = PostgresReader(session, context.build, settings.lock_key)
        self.recorder = PostgresRecorder(
            session,
            context.build,
            settings.lock_key,
            self._fenced.verify,
            context.deadline,
        )
        self.reader.deadline = context.deadline
        self.lock_timeout = PostgresLockTimeout(
            settings, session, self._fenced, context.deadline
        )
        self._statement = StatementProgress(
            session, self._fenced, self.recorder, context.report
        )

    def connections(self) -> AbstractContextManager[BaseDatabaseWrapper]:
        return self._fenced

    def transaction(self, connection: BaseDatabaseWrapper) -> PostgresTransaction:
        self.lock_timeout.respect(connection)
        return PostgresTransaction(connection, self.lock_timeout.timeout)

    def _beat(self) -> None:
        self.recorder.heartbeat(self._statement.read)

    def verify(self) -> None:
        self._fenced.verify()

    def classify(self, error: BaseException) -> ErrorKind:
        chain = list(exception_chain(error))
        closed = self._fenced.lost or bool(self._session.raw.closed)
        lost = any(map(is_lost_connection, chain)) and not any(map(is_time_out, chain))
        if closed and lost:
            return ErrorKind.LOST
        if is_read_only(error) and self._server_is_read_only():
            return ErrorKind.LOST
        if any(isinstance(each, (*_TRANSIENT, LockWaitTimeout)) for each in chain):
            return ErrorKind.TRANSIENT
        return ErrorKind.OTHER

    def _server_is_read_only(self) -> bool:
        """Return False if only the migration's own transaction was read-only."""
        try:
            return inspect_connection(self._session).is_read_only
        except psycopg.Error:  # the server ended the session
            return True

    def introspection(self) -> PostgresIntrospection:
        return PostgresIntrospection(
            self._session, self.context.settings, self._session.rows
        )

    def ensure_journal(self) -> bool:
        if not self.recorder.used_journal:
            self.recorder.ensure_journal()
            self.recorder.used_journal = True
        return True

    def journal(self, connection: BaseDatabaseWrapper) -> JournalWriter:
        tables = self._session.tables
        return JournalWriter(
            connection,
            self.recorder.lock_key,
            self.recorder.run_id,
            "pg_catalog.clock_timestamp()",
            lambda statement: tables.qualify(statement, has_params=True),
            "OPERATOR(pg_catalog.=)",
            ("SET LOCAL SESSION AUTHORIZATION DEFAULT", "SET LOCAL ROLE NONE"),
        )

    def needs_no_transaction(self, error: BaseException) -> bool:
        return needs_no_transaction(error)

    def effect_of(self, sql: str) -> SQLEffect:
        return effect_of(sql)

    def index_condition(
        self, connection: BaseDatabaseWrapper, name: str
    ) -> IndexCondition:
        return index_condition(connection, name)

    def removes_index(self, operation: Operation) -> bool:
        return isinstance(operation, RemoveIndexConcurrently)

    def drop_leftover(self, connection: BaseDatabaseWrapper, name: str) -> None:
        drop_leftover(connection, name)

    def concurrent_index(self, operation: Operation) -> str | None:
        return concurrent_index(operation)

    def existing_indexes(
        self,
        connection: BaseDatabaseWrapper,
        names: Sequence[str],
        *,
        valid: bool = False,
    ) -> set[str]:
        return existing_indexes(connection, names, valid=valid)

    def drop_index(self, connection: BaseDatabaseWrapper, name: str) -> None:
        drop_index(connection, name)

    def repair(self, connection: BaseDatabaseWrapper, statement: str) -> None:
        run_repair(connection, statement, self.lock_timeout)

    def close(self) -> None:
        """Do nothing, because the leader session belongs to the observer."""
