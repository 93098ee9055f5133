"""Define what a leader works with, from the lock that it took to the lock's release."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from enum import Enum, auto

from django.db.backends.base.base import BaseDatabaseWrapper

from django_safe_init.backends.base.introspection import BaseIntrospection
from django_safe_init.backends.base.reader import BaseReader
from django_safe_init.backends.base.recorder import BaseRecorder
from django_safe_init.backends.base.transaction import MigrationTransaction
from django_safe_init.conf import LockTimeoutPolicy
from django_safe_init.core.heartbeat import Heartbeat
from django_safe_init.core.records import Blocker


class ErrorKind(Enum):
    """What an error says about a run."""

    #: A connection of the run was lost, so another process may lead by now.
    LOST = auto()
    #: The error says nothing about the migration: another attempt may succeed.
    TRANSIENT = auto()
    #: The migration, or the database, is at fault.
    OTHER = auto()


class BaseLockTimeout(ABC):
    """Limits how long the statements of a migration wait for locks."""

    #: How long and how often; None without a limit.
    policy: LockTimeoutPolicy | None

    @abstractmethod
    def limited(self, connection: BaseDatabaseWrapper) -> AbstractContextManager[None]:
        """Return a context manager that applies the limit to statements outside a transaction.

        In a transaction of the run the limit applies without it.
        """

    @abstractmethod
    def is_timeout(self, error: BaseException) -> bool:
        """Return True if a lock timeout caused the error."""

    @abstractmethod
    def blockers(self) -> tuple[Blocker, ...]:
        """Return the sessions that the migrating session waits for."""


class RunSession(ABC):
    """The reader, the recorder and the connections of one run."""

    reader: BaseReader
    recorder: BaseRecorder
    #: None where migrations do not wait for locks of single tables.
    lock_timeout: BaseLockTimeout | None = None

    @abstractmethod
    def connections(self) -> AbstractContextManager[BaseDatabaseWrapper]:
        """Return a context manager in which Django's connections to the alias are the run's."""

    @abstractmethod
    def transaction(self, connection: BaseDatabaseWrapper) -> MigrationTransaction:
        """Return the transactions in which migrations are applied and recorded."""

    def heartbeat(self) -> AbstractContextManager[None]:
        """Return a context manager that records every few seconds that the leader is alive."""
        return Heartbeat(self._beat, has_update=self.recorder.progress.has_update)

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
        """Return what the error says about the run."""

    @abstractmethod
    def introspection(self) -> BaseIntrospection:
        """Return an introspection on the leader's own connection."""

    @abstractmethod
    def existing_indexes(
        self,
        connection: BaseDatabaseWrapper,
        names: Sequence[str],
        *,
        valid: bool = False,
    ) -> set[str]:
        """Return the names that are indexes now; with `valid`, only those that are usable."""

    @abstractmethod
    def drop_index(self, connection: BaseDatabaseWrapper, name: str) -> None:
        """Drop the index, if it exists, without blocking writers of its table."""

    @abstractmethod
    def close(self) -> None:
        """Close the connections that the session opened."""
