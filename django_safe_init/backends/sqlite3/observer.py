"""How a follower looks at a SQLite database: at the lock often, at the tables when it is time."""

from __future__ import annotations

import random
import time

from django_safe_init.backends.sqlite3.reader import SQLiteReader
from django_safe_init.conf import Settings
from django_safe_init.core.build import Build
from django_safe_init.core.cancellation import check, sleep
from django_safe_init.core.deadline import Deadline
from django_safe_init.core.records import LeaderSnapshot

#: Looking at the lock costs three system calls, and nobody is told when it is free.
_SECONDS_BETWEEN_LOOKS = 0.05


class SQLiteObserver:
    """See `engines.base.Eyes`."""

    def __init__(
        self, alias: str, build: Build, settings: Settings, deadline: Deadline
    ) -> None:
        self.alias = alias
        self.settings = settings
        self.deadline = deadline
        self._reader = SQLiteReader(alias, build, settings.lock_key)

    def reader(self) -> SQLiteReader:
        """The reader."""
        check()
        return self._reader

    direct_reader = reader

    def end_stalled(self, glance: LeaderSnapshot) -> bool:
        """No: what ends a process of this machine is a decision for a person."""
        return False

    def how_to_end(self, leader_pid: int) -> str:
        """The command that ends the leader."""
        return f"manage.py safe_init_unlock --database {self.alias}"

    def pause(self) -> None:
        """Until the leader has let go of the lock, or until it is time to look again."""
        end = time.monotonic() + self.deadline.clip(random.uniform(0.5, 1.0))
        led = self._reader.leader_pid() is not None
        while (left := end - time.monotonic()) > 0:
            sleep(min(left, _SECONDS_BETWEEN_LOOKS))
            if led and self._reader.leader_pid() is None:
                return

    def close(self) -> None:
        """Close the connection."""
        self._reader.close()
