"""Provide the fake as a backend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from django_safe_init.backends.base.backend import LockingBackend
from django_safe_init.backends.base.observer import BaseObserver
from django_safe_init.core.heartbeat import Heartbeat
from tests.fake_backend.holder import FakeLockHolder
from tests.fake_backend.introspection import FakeIntrospection
from tests.fake_backend.lock import FakeLock
from tests.fake_backend.observer import FakeObserver
from tests.fake_backend.reader import FakeReader
from tests.fake_backend.run_session import FakeRunSession
from tests.fake_backend.server import server_of


class FakeBackend(LockingBackend):
    """Leads under an attribute of the server."""

    def reader(self) -> FakeReader:
        return FakeReader(self.context)

    def introspection(self) -> FakeIntrospection:
        return FakeIntrospection(self.context.alias)

    @contextmanager
    def lock_holder(self) -> Iterator[FakeLockHolder | None]:
        server = server_of(self.context.alias)
        yield server.leader and FakeLockHolder(server, server.leader)

    def observer(self) -> FakeObserver:
        return FakeObserver(self.context)

    def _acquire(self, observer: BaseObserver) -> FakeLock | None:
        lock = FakeLock(server_of(self.context.alias))
        return lock if lock.try_acquire() else None

    def terminate_predecessors(self, lock: FakeLock) -> None:
        while lock.server.workers:
            lock.server.workers.pop()()

    def heartbeat(self, lock: FakeLock) -> AbstractContextManager[None]:
        return Heartbeat(lock.verify)

    def open_run_session(self, lock: FakeLock) -> FakeRunSession:
        return FakeRunSession(self.context, lock)
