"""Provide the objects with which a leader on the fake works."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from django_safe_init.backends.base.context import Context
from django_safe_init.backends.base.run_session import ErrorKind, RunSession
from tests.fake_backend.introspection import FakeIntrospection
from tests.fake_backend.lock import FakeLock
from tests.fake_backend.reader import FakeReader
from tests.fake_backend.recorder import FakeRecorder
from tests.fake_backend.transaction import FakeTransaction


class FakeRunSession(RunSession):
    """Migrates over a connection that a successor can close."""

    def __init__(self, context: Context, lock: FakeLock) -> None:
        self.alias = context.alias
        self.lock = lock
        self.reader = FakeReader(context)
        self.recorder = FakeRecorder(context, lock)
        self._introspection = FakeIntrospection(context.alias)

    @contextmanager
    def connections(self) -> Iterator[BaseDatabaseWrapper]:
        previous = connections[self.alias]
        wrapper = connections.create_connection(self.alias)
        wrapper.ensure_connection()
        workers, close = self.lock.server.workers, wrapper.connection.close
        workers.append(close)
        connections[self.alias] = wrapper
        try:
            yield wrapper
        finally:
            connections[self.alias] = previous
            wrapper.close()
            if close in workers:  # a successor takes it out
                workers.remove(close)

    def transaction(self, connection: BaseDatabaseWrapper) -> FakeTransaction:
        return FakeTransaction(connection)

    def _beat(self) -> None:
        self.recorder.beat()

    def verify(self) -> None:
        self.lock.verify()

    def classify(self, error: BaseException) -> ErrorKind:
        leads = self.lock.server.leader is self.lock
        return ErrorKind.OTHER if leads else ErrorKind.LOST

    def introspection(self) -> FakeIntrospection:
        return self._introspection

    def close(self) -> None:
        self._introspection.close()
        self.reader.close()
