"""Define a backend, the entry point to one database."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import (
    AbstractContextManager,
    contextmanager,
    nullcontext,
    suppress,
)
from typing import TYPE_CHECKING, Any

from django_safe_init.backends.base.losses import LossDetector
from django_safe_init.exceptions import SafeInitError

# Only for types: a start with nothing to do must import little.
if TYPE_CHECKING:
    from django_safe_init.backends.base.context import Context
    from django_safe_init.backends.base.holder import LockHolder
    from django_safe_init.backends.base.introspection import BaseIntrospection
    from django_safe_init.backends.base.lock import Lock
    from django_safe_init.backends.base.observer import BaseObserver
    from django_safe_init.backends.base.reader import BaseReader
    from django_safe_init.backends.base.run_session import RunSession


class BaseBackend(ABC):
    """One process's access to one database, for reading.

    The module `features` of an engine's folder names the subclass. Only methods open
    connections; the constructor opens none.
    """

    def __init__(self, context: Context) -> None:
        self.context = context

    @staticmethod
    def is_busy(error: Exception) -> bool:
        """Return True if the server refused a connection because it is full or starting."""
        return False

    @staticmethod
    def is_connection_loss(error: BaseException) -> bool:
        """Return True if the server or the network ended a connection, or refused one.

        Returns False for a login that was refused, because another attempt would be refused too.
        """
        return False

    @staticmethod
    def is_locked(error: BaseException) -> bool:
        """Return True if a bounded read waited too long for another session's lock."""
        return False

    @staticmethod
    def loss_detector() -> LossDetector:
        """Return a detector of lost connections."""
        return LossDetector()

    def translated_errors(self) -> AbstractContextManager[None]:
        """Return a context manager that turns the driver's errors into this package's.

        It surrounds everything that one attempt of an initialization does.
        """
        return nullcontext()

    def wait_for_server(self) -> None:  # noqa: B027  (an engine without a server)
        """Wait until the server accepts a connection. An engine without a server does nothing.

        Raises `DatabaseUnreachable`, `LoginRefused` or `WaitTimeout`.
        """

    @abstractmethod
    def reader(self) -> BaseReader:
        """Return a reader for one use; the caller closes it."""

    @abstractmethod
    def introspection(self) -> BaseIntrospection:
        """Return an introspection for one use; the caller closes it."""

    def lock_holder(self) -> AbstractContextManager[LockHolder | None]:
        """Return a context manager that yields the current leader, or None."""
        return nullcontext()


class LockingBackend(BaseBackend):
    """A backend with a leader lock, so that one process leads and the others follow."""

    def check(self) -> None:
        """Raise `ConfigurationError` if the settings of the database rule out a run."""

    @abstractmethod
    def observer(self) -> BaseObserver:
        """Return an observer for a process that waits; the caller closes it."""

    @contextmanager
    def leadership(self, observer: BaseObserver) -> Iterator[Any]:
        """Hold the leader lock while the block runs; yield None if another process holds it.

        No other code acquires or releases the lock. Its release wakes the followers. Raises
        `LockLost` if the lock was lost during a block that raised no error, and
        `UnsafeConnection` if the lock would not exclude other processes.
        """
        lock = self._acquire(observer)
        if lock is None:
            yield None
            return
        try:
            yield lock
        except BaseException:
            with suppress(SafeInitError):  # the block's own error says more
                lock.release()
            raise
        lock.release()

    @abstractmethod
    def _acquire(self, observer: Any) -> Lock | None:
        """Acquire the leader lock and return it; return None if it is not free. Never waits."""

    def terminate_predecessors(self, lock: Any) -> None:
        """Terminate the work that an earlier leader left running on the server.

        That work may hold locks on the status tables. Does nothing if a leader's work ends with
        its process. Raises `WaitTimeout`.
        """

    @abstractmethod
    def heartbeat(self, lock: Any) -> AbstractContextManager[None]:
        """Return a context manager that shows the leader to be alive until it opens a run."""

    @abstractmethod
    def open_run_session(self, lock: Any) -> RunSession:
        """Return the session of a run; the caller closes it before the lock is released."""
