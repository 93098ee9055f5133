"""Leading and following on PostgreSQL."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import psycopg
from django.db.backends.base.base import BaseDatabaseWrapper

from django_safe_init.backends.base.completion import complete
from django_safe_init.backends.postgresql.introspection import PostgresIntrospection
from django_safe_init.backends.postgresql.lock import (
    AdvisoryLock,
    LockSnapshot,
    check_direct_connection,
    check_lock_excludes,
)
from django_safe_init.backends.postgresql.lock_timeout import PostgresLockTimeout
from django_safe_init.backends.postgresql.marks import read_interrupted
from django_safe_init.backends.postgresql.observer import PostgresObserver
from django_safe_init.backends.postgresql.pruning import prune
from django_safe_init.backends.postgresql.reader import PostgresReader
from django_safe_init.backends.postgresql.recorder import PostgresRecorder
from django_safe_init.backends.postgresql.run_connections import FencedConnections
from django_safe_init.backends.postgresql.schema import ensure_tables
from django_safe_init.backends.postgresql.session import (
    Session,
    connect,
    create_direct_wrapper,
    is_connection_loss,
    translate_errors,
)
from django_safe_init.backends.postgresql.statement_progress import StatementProgress
from django_safe_init.backends.postgresql.steps import read_records
from django_safe_init.backends.postgresql.transaction import PostgresTransaction
from django_safe_init.core.deadline import Deadline
from django_safe_init.core.heartbeat import Heartbeat
from django_safe_init.core.step import CompletedStep
from django_safe_init.core.text import exception_chain
from django_safe_init.initialization.interrupted import InterruptedSteps
from django_safe_init.validation import ValidationReport, validate

if TYPE_CHECKING:
    from django_safe_init.initialization.initializer import Initializer

#: Errors that say nothing about the migration: somebody else may have more luck.
_TRANSIENT = (
    psycopg.errors.SerializationFailure,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.LockNotAvailable,
)


def _is_lost_connection(error: BaseException) -> bool:
    """Whether a connection was lost; one that we closed is not."""
    return is_connection_loss(error) and "the connection is closed" not in str(error)


class PostgresRunSession:
    """See `engines.base.Tools`."""

    def __init__(self, process: Initializer, lock: AdvisoryLock) -> None:
        key = process.settings.lock_key
        self._settings = process.settings
        self._alias = process.database
        self.build = process.build
        self._session = lock.session
        self._reader = PostgresReader(lock.session, process.build, key)
        self._armed = FencedConnections(process.database, lock, process.direct)
        self.lock_waits = PostgresLockTimeout(
            process.settings, lock.session, self._armed
        )
        self.recorder = PostgresRecorder(lock.session, process.build, key)
        self._statements = StatementProgress(
            lock.session, self._armed, self.recorder, process.say
        )

    def prepare(self) -> None:
        """Create the two tables, or add the columns they lack."""
        ensure_tables(self._session)

    def unfinished(self, rerun: tuple[str, ...]) -> InterruptedSteps:
        """The non-atomic migrations that earlier leaders did not finish."""
        marks = read_interrupted(self._session, self._settings.lock_key)
        return InterruptedSteps(marks, self._settings, rerun, self._alias)

    def step_records(self) -> list[CompletedStep]:
        """The steps that runs have done, newest first."""
        return read_records(self._session, self._settings.lock_key)

    def complete_step(self, connection: BaseDatabaseWrapper) -> None:
        """Record that the running step is done, in the transaction that is open there."""
        complete(connection, "clock_timestamp()", self.recorder)

    def prune(self, unfinished: InterruptedSteps) -> None:
        """Remove the oldest runs, by the setting `HISTORY`."""
        needed = unfinished.runs
        settings, build = self._settings, self.build.fingerprint
        prune(self._session, settings.lock_key, build, settings.history, needed)

    def connections(self) -> AbstractContextManager[BaseDatabaseWrapper]:
        """While entered, Django's connections to the alias belong to the run."""
        return self._armed

    def transaction(self, connection: BaseDatabaseWrapper) -> PostgresTransaction:
        """How a migration is done and recorded in one transaction."""
        return PostgresTransaction(connection, self.lock_waits.timeout)

    def verify(self, proof: LockSnapshot | None = None) -> None:
        """Raise `LockLost` unless this process leads."""
        self._armed.verify(proof)

    def heartbeat(self) -> AbstractContextManager[None]:
        """While entered, the run's row tells that the leader is alive."""
        return Heartbeat(
            lambda: self.recorder.heartbeat(self._statements.look),
            has_update=self.recorder.loops.has_update,
        )

    def missing(self) -> tuple[str, ...]:
        """The migrations and steps that this build knows and the database has not recorded."""
        return self._reader.read().missing

    def is_lost(self, error: BaseException) -> bool:
        """Whether this error is the loss of a connection of the run, or of the leader session."""
        broken = self._armed.broken or bool(self._session.raw.closed)
        return broken and any(map(_is_lost_connection, exception_chain(error)))

    def is_transient(self, error: BaseException) -> bool:
        """Whether an error is worth another try, by what caused it."""
        return any(isinstance(cause, _TRANSIENT) for cause in exception_chain(error))

    def inspect(self) -> ValidationReport:
        """What is wrong with the database, with the remedies."""
        session, settings = self._session, self._settings
        inspector = PostgresIntrospection(session, settings, session.rows)
        return validate(session.alias, inspector, self.build, settings.validate)

    def close(self) -> None:
        """Nothing: the leader session belongs to the watch."""


class PostgresBackend:
    """See `engines.base.Engine`."""

    def __init__(self, process: Initializer, watch: PostgresObserver) -> None:
        self._process = process
        self._watch = watch

    @property
    def eyes(self) -> PostgresObserver:
        """How the process looks at the database."""
        return self._watch

    def try_lock(self) -> AdvisoryLock | None:
        """The leader lock, if it is free. Raises `UnsafeConnection` where it would not exclude."""
        with translate_errors():
            return self._try_lock()

    def _try_lock(self) -> AdvisoryLock | None:
        session = self._watch.direct_reader().session
        found = check_direct_connection(
            session, declared=self._process.direct is not None
        )
        if found.behind_pooler:
            # Before any try: a lock that such a pooler leaked would stay with its server.
            self._require_exclusion(session)
        session.apply_session_settings()
        lock = AdvisoryLock(session, self._process.settings.lock_key)
        return lock if lock.try_acquire() else None

    def take_over(self, lock: AdvisoryLock) -> None:
        """End whatever an earlier leader left running: it may hold locks on our own tables."""
        patience = Deadline(self._process.settings.wait_timeout)
        with translate_errors():
            self._require_exclusion(lock.session)
            lock.end_predecessors(self._process.say, patience)

    def heartbeat(self, lock: AdvisoryLock) -> AbstractContextManager[None]:
        """While entered, the leader session shows that the leader is alive."""
        return Heartbeat(lock.verify)

    def tools(self, lock: AdvisoryLock) -> PostgresRunSession:
        """What to lead with."""
        return PostgresRunSession(self._process, lock)

    def _require_exclusion(self, session: Session) -> None:
        process = self._process
        wrapper = create_direct_wrapper(process.database, process.direct)
        with connect(
            wrapper,
            process.settings,
            process.deadline,
            "safe_init probe",
            process.say,
        ) as second:
            check_lock_excludes(session, second)
