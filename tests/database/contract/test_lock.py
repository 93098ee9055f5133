"""Every backend's lock excludes all processes but one, until that one ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from django_safe_init.backends.postgresql.connect import connect, create_direct_wrapper
from django_safe_init.backends.postgresql.lock import AdvisoryLock
from django_safe_init.conf import Settings
from django_safe_init.core.deadline import Deadline
from django_safe_init.exceptions import LockLost
from django_safe_init.testing import LeadershipContract, LockContract
from tests.database.contract.backends import (
    OnEachPostgreSQL,
    OnFake,
    OnPostgreSQL,
    OnSQLite,
)
from tests.fake_backend.lock import FakeLock
from tests.fake_backend.server import FakeServer

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


class TestAdvisoryLock(OnEachPostgreSQL, LockContract):
    """The contract, with a session per contender."""

    contenders = 4
    lock_key: str | None = None

    @contextmanager
    def open_lock(self) -> Iterator[AdvisoryLock]:
        wrapper = create_direct_wrapper("default")
        with connect(wrapper, Settings(), Deadline(10), "safe_init test") as session:
            yield AdvisoryLock(session, self.lock_key)

    def kill_holder(self, lock: AdvisoryLock) -> None:
        self.lose_lock(lock)


class TestAdvisoryLockWithKey(TestAdvisoryLock):
    """The contract, for one of several projects in a database."""

    lock_key = "shop"


class RemoteLock:
    """The lock of a contender in a separate process."""

    def __init__(self, path: Path) -> None:
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
    """The contract, with a process per contender and SIGKILL for a holder."""

    contenders = 4

    @pytest.fixture(autouse=True)
    def _path(self, tmp_path: Path) -> None:
        self.path = tmp_path / "lock"

    @contextmanager
    def open_lock(self) -> Iterator[RemoteLock]:
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


class TestFakeLock(LockContract):
    """The contract, with a thread per contender."""

    @pytest.fixture(autouse=True)
    def _server(self) -> None:
        self.server = FakeServer()

    @contextmanager
    def open_lock(self) -> Iterator[FakeLock]:
        yield FakeLock(self.server)

    def kill_holder(self, lock: FakeLock) -> None:
        self.server.leader = None


class TestLeadershipOnPostgreSQL(OnPostgreSQL, LeadershipContract):
    """The contract of leading, on PostgreSQL."""


class TestLeadershipOnSQLite(OnSQLite, LeadershipContract):
    """The contract of leading, on a database file."""


class TestLeadershipOnFake(OnFake, LeadershipContract):
    """The contract of leading, on the fake."""
