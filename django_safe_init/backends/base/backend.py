"""Define a backend: the entry to everything this package does with one database."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import (
    AbstractContextManager,
    contextmanager,
    nullcontext,
    suppress,
)
from typing import Any

from django_safe_init.backends.base.context import Context
from django_safe_init.backends.base.holder import LockHolder
from django_safe_init.backends.base.introspection import BaseIntrospection
from django_safe_init.backends.base.lock import Lock
from django_safe_init.backends.base.observer import BaseObserver
from django_safe_init.backends.base.reader import BaseReader
from django_safe_init.backends.base.run_session import RunSession
from django_safe_init.exceptions import SafeInitError


class BaseBackend(ABC):
    """One process's access to one database, to read it.

    A subclass is named in its folder's `features`. It opens connections only in its methods.
    """

    def __init__(self, context: Context) -> None:
        self.context = context

    @staticmethod
    def is_busy(error: Exception) -> bool:
        """Return True if Django got no connection because the server is full or starting."""
        return False

    @abstractmethod
    def wait_for_server(self) -> None:
        """Return as soon as the server accepts a connection; at once without a server.

        Raises `DatabaseUnreachable`, `LoginRefused` or `WaitTimeout`.
        """

    @abstractmethod
    def reader(self) -> BaseReader:
        """Return a reader for one use; the caller closes it."""

    @abstractmethod
    def introspection(self) -> BaseIntrospection:
        """Return an introspection for one use; the caller closes it."""

    def lock_holder(self) -> AbstractContextManager[LockHolder | None]:
        """Return a context manager that yields the present leader, or None."""
        return nullcontext()


class LockingBackend(BaseBackend):
    """A backend with a leader lock: processes lead and follow."""

    @abstractmethod
    def observer(self) -> BaseObserver:
        """Return an observer, which a process keeps while it waits; the caller closes it."""

    @contextmanager
    def leadership(self, observer: BaseObserver) -> Iterator[Any]:
        """Hold the leader lock while the block runs; yield None if another process holds it.

        This is the one place that acquires and releases the lock. Releasing it wakes the
        followers. Raises `LockLost` if the lock was lost during a block that ended well, and
        `UnsafeConnection` where a lock would not exclude other processes.
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
        """Return the leader lock if it was free. Never waits."""

    def terminate_predecessors(self, lock: Any) -> None:
        """End what an earlier leader left running: it may hold locks on the status tables.

        Does nothing where a leader's work ends with its process. Raises `WaitTimeout`.
        """

    @abstractmethod
    def heartbeat(self, lock: Any) -> AbstractContextManager[None]:
        """Return a context manager that shows a living leader before it has opened a run."""

    @abstractmethod
    def open_run_session(self, lock: Any) -> RunSession:
        """Return what a leader works with; the caller closes it before the lock is released."""
