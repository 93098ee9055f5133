"""Describe the leader on the fake, and end it."""

from __future__ import annotations

from dataclasses import dataclass

from django_safe_init.backends.base.holder import LockHolder
from tests.fake_backend.lock import FakeLock
from tests.fake_backend.server import FakeServer


@dataclass(frozen=True)
class FakeLockHolder(LockHolder):
    """The contender that holds the lock, at one moment."""

    server: FakeServer
    lock: FakeLock

    question = "End this leader?"

    def lines(self) -> list[str]:
        return [f"led by process {self.lock.pid}"]

    def end(self, seconds: float) -> str | None:
        with self.server.guard:
            if self.server.leader is self.lock:
                self.server.leader = None
        return None
