"""The contract of a leader lock, tested with SQLite's file lock between processes."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress

import pytest

from django_safe_init.exceptions import LockLost
from django_safe_init.testing import LockContract

#: Reads the names of lock methods from standard input, and prints the result of each.
SERVE = """
import sys
from django_safe_init.exceptions import LockLost
from django_safe_init.backends.sqlite3.lock_file import FileLock

lock = FileLock(sys.argv[1])
for line in sys.stdin:
    try:
        answer = getattr(lock, line.strip())()
    except LockLost:
        answer = "lost"
    print(answer, flush=True)
"""


class RemoteLock:
    """The lock of a contender in a separate process."""

    def __init__(self, path: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVE, path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _tell(self, word: str) -> str:
        with suppress(BrokenPipeError):
            self.process.stdin.write(f"{word}\n")
            self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        if answer in ("lost", ""):  # a dead process prints nothing
            raise LockLost(word)
        return answer

    def try_acquire(self) -> bool:
        return self._tell("try_acquire") == "True"

    def verify(self) -> None:
        self._tell("verify")

    def release(self) -> None:
        self._tell("release")

    def end(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)
        self.process.wait()


class TestFileLock(LockContract):
    """The file lock's contract: each contender is a process, and SIGKILL kills a holder."""

    contenders = 4

    @pytest.fixture(autouse=True)
    def _path(self, tmp_path) -> None:
        self.path = str(tmp_path / "lock")

    def open_lock(self) -> AbstractContextManager[RemoteLock]:
        return self._open()

    @contextmanager
    def _open(self) -> Iterator[RemoteLock]:
        lock = RemoteLock(self.path)
        try:
            yield lock
        finally:
            lock.end()
            with suppress(BrokenPipeError):
                lock.process.stdin.close()
            lock.process.stdout.close()

    def kill_holder(self, lock: RemoteLock) -> None:
        lock.end(signal.SIGKILL)
