"""Define a leader lock; `django_safe_init.testing.LockContract` is its executable form."""

from __future__ import annotations

from typing import Protocol


class Lock(Protocol):
    """Excludes all processes but one from initializing one database.

    A lock is free as soon as its holder's process is dead. No process may wait for it inside
    the database.
    """

    def try_acquire(self) -> bool:
        """Take the lock if it is free; return True if this process holds it. Never waits."""

    def verify(self) -> object:
        """Raise `LockLost` unless the lock is held now."""

    def release(self) -> None:
        """Free the lock. Raises `LockLost` if it was not held."""
