"""Who holds the leader lock on SQLite: a process of this machine, and the end of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from django_safe_init.backends.base.holder import describe
from django_safe_init.backends.sqlite3.lock_file import holder
from django_safe_init.backends.sqlite3.paths import lock_file
from django_safe_init.backends.sqlite3.reader import SQLiteReader
from django_safe_init.conf import Settings
from django_safe_init.core.build import current_build
from django_safe_init.core.cancellation import sleep
from django_safe_init.core.deadline import Deadline
from django_safe_init.core.records import RunRow, TablesLocked

#: First it may clean up: close its run, and free the lock.
_SIGNALS = (signal.SIGTERM, signal.SIGKILL)


@dataclass(frozen=True)
class SQLiteLockHolder:
    """A leader, as the operating system sees it at one moment. See `holding.Holder`."""

    pid: int
    run: RunRow | None
    #: The file whose lock it holds.
    path: str

    question = "End this process?"

    def lines(self) -> list[str]:
        """All of it, for a person."""
        what = _command_line(self.pid) or "a process that cannot be looked into"
        return [describe(self.run), f"  pid {self.pid} (leader lock): {what}"]

    def end(self, seconds: float) -> str | None:
        """End the process; returns why it still holds the lock, or None."""
        if self.pid <= 0:
            return (
                "It cannot be seen from here which process leads. End it where it runs."
            )
        for number in _SIGNALS:
            try:
                if self._leads():
                    os.kill(self.pid, number)
            except PermissionError:
                return (
                    f"Process {self.pid} belongs to another user and may not be ended by this "
                    f"one; an administrator can: kill {self.pid}"
                )
            deadline = Deadline(seconds / len(_SIGNALS))
            while self._leads() and not deadline.passed():
                sleep(0.02)
            if not self._leads():
                return None
        return f"Process {self.pid} was told to end, and has not ended within {seconds:g} s."

    def _leads(self) -> bool:
        return holder(self.path) == self.pid


@contextmanager
def open_holder(alias: str, settings: Settings) -> Iterator[SQLiteLockHolder | None]:
    """Who holds the leader lock now, or None."""
    path = lock_file(alias)
    pid = holder(path)
    yield (
        None if pid is None else SQLiteLockHolder(pid, _open_run(alias, settings), path)
    )


def _open_run(alias: str, settings: Settings) -> RunRow | None:
    reader = SQLiteReader(alias, current_build(), settings.lock_key)
    try:
        run = reader.glance().latest
    except TablesLocked:
        return None
    finally:
        reader.close()
    return run if run is not None and run.open else None


def _command_line(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return ""
    return b" ".join(words).decode(errors="replace").strip()
