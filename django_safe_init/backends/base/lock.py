"""Define a leader lock.

`django_safe_init.testing.LockContract` contains the tests of an implementation.
"""

from __future__ import annotations

from typing import Protocol

from django_safe_init.exceptions import WaitTimeout


class Lock(Protocol):
    """A lock that lets only one process initialize a database.

    The lock is free as soon as its holder's process is dead. No process may wait for it inside
    the database.
    """

    def try_acquire(self) -> bool:
        """Acquire the lock if it is free; return True if it was acquired. Never waits."""

    def verify(self) -> object:
        """Raise `LockLost` unless this object holds the lock now."""

    def release(self) -> None:
        """Release the lock. Raises `LockLost` if this object did not hold it."""


class LockWaitTimeout(WaitTimeout):
    """Another session kept a lock that a run needs; a later run may get it."""
