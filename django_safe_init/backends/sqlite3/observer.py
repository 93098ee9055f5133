"""Wait as a follower on SQLite: poll the lock often, the tables rarely."""

from __future__ import annotations

import random
import time

from django_safe_init.backends.base.context import Context
from django_safe_init.backends.base.observer import BaseObserver
from django_safe_init.backends.sqlite3.reader import SQLiteReader
from django_safe_init.core.cancellation import check, sleep

#: Polling the lock costs three system calls, and nothing notifies of its release.
_SECONDS_BETWEEN_POLLS = 0.05


class SQLiteObserver(BaseObserver):
    """Polls the leader lock; a stalled leader is not ended, because it is a local process."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        lock_key = context.settings.lock_key
        self._reader = SQLiteReader(context.alias, context.build, lock_key)

    def reader(self) -> SQLiteReader:
        check()
        return self._reader

    def how_to_end(self, leader_pid: int) -> str:
        return f"manage.py safe_init_unlock --database {self.context.alias}"

    def wait(self) -> None:
        """Wait until the lock is free, or until the next poll of the tables is due."""
        seconds = self.context.deadline.clip(random.uniform(0.5, 1.0))
        end = time.monotonic() + seconds
        led = self._reader.leader_pid() is not None
        while (left := end - time.monotonic()) > 0:
            sleep(min(left, _SECONDS_BETWEEN_POLLS))
            if led and self._reader.leader_pid() is None:
                return

    def close(self) -> None:
        self._reader.close()
