"""What a leader lock can do. `testing.LockContract` is the same in executable form."""

from __future__ import annotations

from typing import Protocol


class Lock(Protocol):
    """Excludes all but one process from initializing one database.

    It must be free as soon as its holder's process is dead, and must never be waited for
    inside the database.
    """

    def try_acquire(self) -> bool:
        """Take the lock if it is free; never waits."""

    def verify(self) -> None:
        """Raise `LockLost` unless the lock is held at this moment."""

    def release(self) -> None:
        """Free the lock. Raises `LockLost` if it was not held."""
