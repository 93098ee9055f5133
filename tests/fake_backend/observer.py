"""Wait as a follower of the fake."""

from __future__ import annotations

from django_safe_init.backends.base.context import Context
from django_safe_init.backends.base.observer import BaseObserver
from django_safe_init.core.cancellation import sleep
from django_safe_init.core.deadline import Deadline
from tests.fake_backend.reader import FakeReader


class FakeObserver(BaseObserver):
    """Polls the leader lock."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._reader = FakeReader(context)

    def reader(self) -> FakeReader:
        return self._reader

    def wait(self) -> None:
        end = Deadline(self.context.deadline.clip(1.0))
        while self._reader.leader_pid() is not None and not end.passed():
            sleep(0.01)

    def close(self) -> None:
        self._reader.close()
