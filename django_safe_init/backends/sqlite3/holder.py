"""Find the process that leads on SQLite, and end it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from django_safe_init.backends.base.context import Context
from django_safe_init.backends.base.holder import LockHolder, describe, open_run
from django_safe_init.backends.sqlite3.lock_file import holder_pid
from django_safe_init.backends.sqlite3.paths import lock_file
from django_safe_init.backends.sqlite3.reader import SQLiteReader
from django_safe_init.core.cancellation import sleep
from django_safe_init.core.deadline import Deadline
from django_safe_init.core.records import RunRow, leader_name

#: SIGTERM lets the process close its run and release the lock.
_SIGNALS = (signal.SIGTERM, signal.SIGKILL)


@dataclass(frozen=True)
class SQLiteLockHolder(LockHolder):
    """The leader's process, which runs on this machine."""

    pid: int
    run: RunRow | None
    #: The path of the file whose lock the process holds.
    path: str

    question = "End this process?"

    def lines(self) -> list[str]:
        command = _command_line(self.pid) or "a process that cannot be looked into"
        return [
            describe(self.run),
            f"  process {leader_name(self.pid)} (leader lock): {command}",
        ]

    def end(self, seconds: float) -> str | None:
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
        return holder_pid(self.path) == self.pid


@contextmanager
def open_holder(context: Context) -> Iterator[SQLiteLockHolder | None]:
    """Yield the current leader, or None."""
    path = lock_file(context.alias)
    pid = holder_pid(path)
    if pid is None:
        yield None
        return
    lock_key = context.settings.lock_key
    with closing(SQLiteReader(context.alias, context.build, lock_key)) as reader:
        run = open_run(reader)
    yield SQLiteLockHolder(pid, run, path)


def _command_line(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return ""
    return b" ".join(words).decode(errors="replace").strip()
