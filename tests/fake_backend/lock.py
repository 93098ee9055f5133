"""Exclude all contenders but one, among the threads of this process."""

from __future__ import annotations

from itertools import count

from django_safe_init.exceptions import LockLost
from tests.fake_backend.server import FakeServer

_pids = count(1001)


class FakeLock:
    """The leader lock of one contender, which counts as a process."""

    def __init__(self, server: FakeServer) -> None:
        self.server = server
        self.pid = next(_pids)

    def try_acquire(self) -> bool:
        with self.server.guard:
            if self.server.leader is None:
                self.server.leader = self
            return self.server.leader is self

    def verify(self) -> None:
        if self.server.leader is not self:
            raise LockLost("This process no longer leads.")

    def release(self) -> None:
        with self.server.guard:
            self.verify()
            self.server.leader = None
