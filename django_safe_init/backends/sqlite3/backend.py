"""Leading and following on SQLite."""

from __future__ import annotations

import sqlite3
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from django.db import OperationalError, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from django_safe_init.backends.base.completion import complete
from django_safe_init.backends.sqlite3.introspection import SQLiteIntrospection
from django_safe_init.backends.sqlite3.lock_file import FileLock
from django_safe_init.backends.sqlite3.marks import prune, read_interrupted
from django_safe_init.backends.sqlite3.observer import SQLiteObserver
from django_safe_init.backends.sqlite3.paths import lock_file
from django_safe_init.backends.sqlite3.reader import SQLiteReader
from django_safe_init.backends.sqlite3.recorder import SQLiteRecorder
from django_safe_init.backends.sqlite3.run_connections import RunConnection
from django_safe_init.backends.sqlite3.schema import NOW, ensure_tables
from django_safe_init.backends.sqlite3.session import SQLiteSession, is_locked
from django_safe_init.backends.sqlite3.steps import read_records
from django_safe_init.backends.sqlite3.transaction import SQLiteTransaction
from django_safe_init.core.heartbeat import Heartbeat
from django_safe_init.core.step import CompletedStep
from django_safe_init.core.text import exception_chain
from django_safe_init.exceptions import ConfigurationError
from django_safe_init.initialization.interrupted import InterruptedSteps
from django_safe_init.validation import ValidationReport, validate

if TYPE_CHECKING:
    from django_safe_init.backends.postgresql.lock import LockSnapshot
    from django_safe_init.initialization.initializer import Initializer


class SQLiteRunSession:
    """See `engines.base.Tools`. What a dead leader did has died with it: nothing is fenced."""

    #: A migration has the whole file from its beginning.
    lock_waits = None

    def __init__(self, process: Initializer, lock: FileLock) -> None:
        self._process = process
        self.build = process.build
        self._lock = lock
        self._key = process.settings.lock_key
        self._session = SQLiteSession(process.database)
        self.recorder = SQLiteRecorder(self._session, process.build, self._key)

    def prepare(self) -> None:
        """Create the two tables, or add the columns they lack."""
        with self._session.writing():
            ensure_tables(self._session)

    def unfinished(self, rerun: tuple[str, ...]) -> InterruptedSteps:
        """The non-atomic migrations that earlier leaders did not finish."""
        marks = read_interrupted(self._session, self._key)
        return InterruptedSteps(
            marks, self._process.settings, rerun, self._process.database
        )

    def step_records(self) -> list[CompletedStep]:
        """The steps that runs have done, newest first."""
        return read_records(self._session, self._key)

    def complete_step(self, connection: BaseDatabaseWrapper) -> None:
        """Record that the running step is done, in the transaction that is open there."""
        complete(connection, NOW, self.recorder)

    def prune(self, unfinished: InterruptedSteps) -> None:
        """Remove the oldest runs, by the setting `HISTORY`."""
        needed = unfinished.runs
        keep = self._process.settings.history
        fingerprint = self._process.build.fingerprint
        prune(self._session, self._key, fingerprint, keep, needed)

    def connections(self) -> AbstractContextManager[BaseDatabaseWrapper]:
        """While entered, a statement of this thread ends when the run is to end."""
        return RunConnection(self._process.database)

    def transaction(self, connection: BaseDatabaseWrapper) -> SQLiteTransaction:
        """How a migration is done and recorded in one transaction."""
        return SQLiteTransaction(connection)

    def verify(self, proof: LockSnapshot | None = None) -> None:
        """Raise `LockLost` unless this process leads."""
        self._lock.verify()

    def heartbeat(self) -> AbstractContextManager[None]:
        """While entered, the lock's file tells that the leader is alive."""
        return Heartbeat(
            lambda: self._lock.beat(self.recorder.note()),
            has_update=self.recorder.loops.has_update,
        )

    def missing(self) -> tuple[str, ...]:
        """The migrations and steps that this build knows and the database has not recorded."""
        reader = SQLiteReader(self._process.database, self._process.build, self._key)
        try:
            return reader.read().missing
        finally:
            reader.close()

    def is_lost(self, error: BaseException) -> bool:
        """No: there is no connection that somebody else could end."""
        return False

    def is_transient(self, error: BaseException) -> bool:
        """Whether somebody else has used the database for too long."""
        return any(
            isinstance(cause, (OperationalError, sqlite3.OperationalError))
            and is_locked(str(cause))
            for cause in exception_chain(error)
        )

    def inspect(self) -> ValidationReport:
        """What is wrong with the database, with the remedies."""
        process = self._process
        inspector = SQLiteIntrospection(process.database, self._session.rows)
        levels = process.settings.validate
        return validate(process.database, inspector, process.build, levels)

    def close(self) -> None:
        """Close the connection."""
        self._session.close()


class SQLiteBackend:
    """See `engines.base.Engine`."""

    def __init__(self, process: Initializer, watch: SQLiteObserver) -> None:
        self._process = process
        self._watch = watch
        if not connections[process.database].settings_dict["AUTOCOMMIT"]:
            raise ConfigurationError(
                f"DATABASES[{process.database!r}] has AUTOCOMMIT False, with which Django "
                "cannot migrate SQLite. Take it out."
            )

    @property
    def eyes(self) -> SQLiteObserver:
        """How the process looks at the database."""
        return self._watch

    def try_lock(self) -> FileLock | None:
        """The leader lock, if it is free."""
        lock = FileLock(lock_file(self._process.database))
        return lock if lock.try_acquire() else None

    def take_over(self, lock: FileLock) -> None:
        """Nothing is left of an earlier leader: what it did was done by its process."""

    def heartbeat(self, lock: FileLock) -> AbstractContextManager[None]:
        """While entered, the lock's file tells that the leader is alive."""
        return Heartbeat(lock.beat)

    def tools(self, lock: FileLock) -> SQLiteRunSession:
        """What to lead with."""
        return SQLiteRunSession(self._process, lock)
