"""Define the session of one run, which a leader opens under the lock."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum, auto

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.operations.base import Operation

from django_safe_init.backends.base.introspection import BaseIntrospection
from django_safe_init.backends.base.journal import JournalWriter
from django_safe_init.backends.base.reader import BaseReader
from django_safe_init.backends.base.recorder import BaseRecorder
from django_safe_init.backends.base.sql_effects import SQLEffect
from django_safe_init.backends.base.transaction import MigrationTransaction
from django_safe_init.conf import LockTimeoutPolicy
from django_safe_init.core.deadline import Deadline
from django_safe_init.core.heartbeat import Heartbeat
from django_safe_init.core.records import Blocker


@dataclass(frozen=True)
class IndexCondition:
    """An index that a migration creates, drops or rebuilds concurrently."""

    exists: bool = False
    is_valid: bool = False
    #: The quoted names of what an interrupted `REINDEX` has left behind.
    leftovers: tuple[str, ...] = ()


class ErrorKind(Enum):
    """The meaning of an error for a run."""

    #: A connection of the run was lost, so another process may already lead.
    LOST = auto()
    #: The migration is not at fault, so another attempt may succeed.
    TRANSIENT = auto()
    #: The migration or the database is at fault.
    OTHER = auto()


class BaseLockTimeout(ABC):
    """A limit on the time that a migration's statements wait for locks."""

    #: The seconds and the attempts; None without a limit.
    policy: LockTimeoutPolicy | None
    #: Limits the pauses between the attempts.
    deadline: Deadline

    @abstractmethod
    def limited(self, connection: BaseDatabaseWrapper) -> AbstractContextManager[None]:
        """Return a context manager that applies the limit to statements outside a transaction.

        The limit always applies to the run's transactions.
        """

    @abstractmethod
    def is_timeout(self, error: BaseException) -> bool:
        """Return True if a lock timeout caused the error."""

    @abstractmethod
    def blockers(self) -> tuple[Blocker, ...]:
        """Return the sessions that block the migrating session."""

    @abstractmethod
    def how_to_end(self, blocker: Blocker) -> str:
        """Return the command with which a person ends the blocker."""


class RunSession(ABC):
    """The reader, the recorder and the connections of one run."""

    reader: BaseReader
    recorder: BaseRecorder
    #: None if migrations do not wait for the locks of single tables.
    lock_timeout: BaseLockTimeout | None = None

    @abstractmethod
    def connections(self) -> AbstractContextManager[BaseDatabaseWrapper]:
        """Return a context manager that gives the alias the connections of the run."""

    @abstractmethod
    def transaction(self, connection: BaseDatabaseWrapper) -> MigrationTransaction:
        """Return the transactions that apply and record migrations on `connection`."""

    def heartbeat(self) -> AbstractContextManager[None]:
        """Return a context manager that records every few seconds that the leader is alive."""
        return Heartbeat(self._beat, has_update=self.recorder.has_update)

    @abstractmethod
    def _beat(self) -> None:
        """Record that the leader is alive, and the progress of the running step.

        The heartbeat's thread calls this method.
        """

    @abstractmethod
    def verify(self) -> None:
        """Raise `LockLost` unless this process leads now."""

    @abstractmethod
    def classify(self, error: BaseException) -> ErrorKind:
        """Return the kind of the error."""

    @abstractmethod
    def introspection(self) -> BaseIntrospection:
        """Return an introspection on the leader's own connection."""

    def ensure_journal(self) -> bool:
        """Create the table of the journal, if it is missing, and return True.

        Return False for an engine without a journal: an interrupted migration is in doubt as a
        whole. Call it outside of a migration's transaction.
        """
        return False

    def journal(self, connection: BaseDatabaseWrapper) -> JournalWriter:
        """Return a writer of the journal on `connection`. Its table exists."""
        raise NotImplementedError("This engine has no journal.")

    def needs_no_transaction(self, error: BaseException) -> bool:
        """Return True if the error was raised only because of a transaction.

        The same work may succeed without one.
        """
        return False

    def effect_of(self, sql: str) -> SQLEffect:
        """Return the effect of a statement, or of a script that is sent as one message."""
        return SQLEffect()

    def index_condition(
        self, connection: BaseDatabaseWrapper, name: str
    ) -> IndexCondition:
        """Return the condition of an index, whose name is quoted and may have a schema."""
        return IndexCondition()

    def removes_index(self, operation: Operation) -> bool:
        """Return True if the operation removes the index that `concurrent_index` names."""
        return False

    def drop_leftover(  # noqa: B027  (an engine without them)
        self, connection: BaseDatabaseWrapper, name: str
    ) -> None:
        """Drop an index without blocking writers; its name is quoted and may have a schema."""

    def concurrent_index(self, operation: Operation) -> str | None:
        """Return the index that the operation adds or removes without blocking writers.

        None for any other operation, and for every one of an engine without such indexes.
        """
        return None

    def existing_indexes(
        self,
        connection: BaseDatabaseWrapper,
        names: Sequence[str],
        *,
        valid: bool = False,
    ) -> set[str]:
        """Return the names of existing indexes; with `valid`, only of usable ones.

        `names` come from `concurrent_index`.
        """
        return set()

    def drop_index(  # noqa: B027  (an engine without them)
        self, connection: BaseDatabaseWrapper, name: str
    ) -> None:
        """Drop one of the existing indexes, without blocking writes to its table."""

    def repair(self, connection: BaseDatabaseWrapper, statement: str) -> None:
        """Run a statement that repairs the schema, outside a transaction.

        Raise Django's errors, some of which explain more.
        """
        with connection.cursor() as cursor:
            cursor.execute(statement)

    @abstractmethod
    def close(self) -> None:
        """Close the connections that the session opened."""
