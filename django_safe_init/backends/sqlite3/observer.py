"""Wait as a follower on SQLite."""

from __future__ import annotations

import random
import time

from django_safe_init.backends.base.context import Context
from django_safe_init.backends.base.observer import BaseObserver
from django_safe_init.backends.sqlite3.reader import SQLiteReader
from django_safe_init.core.cancellation import check, sleep

#: A poll of the lock costs three system calls. SQLite cannot notify followers of its release.
_SECONDS_BETWEEN_POLLS = 0.05


class SQLiteObserver(BaseObserver):
    """A follower that polls the lock often and the tables rarely.

    It ends no stalled leader, because the leader is a local process.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        lock_key = context.settings.lock_key
        self._reader = SQLiteReader(context.alias, context.build, lock_key)

    def reader(self) -> SQLiteReader:
        check()
        return self._reader

    def wait(self) -> None:
        seconds = self.context.deadline.clip(random.uniform(0.5, 1.0))
        end = time.monotonic() + seconds
        led = self._reader.leader_pid() is not None
        while (left := end - time.monotonic()) > 0:
            sleep(min(left, _SECONDS_BETWEEN_POLLS))
            if led and self._reader.leader_pid() is None:
                return

    def close(self) -> None:
        self._reader.close()
