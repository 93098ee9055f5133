"""The holder of SQLite's leader lock: description and termination."""

from __future__ import annotations

import os
from typing import Any

import pytest

from django_safe_init.backends.sqlite3.holder import SQLiteLockHolder
from django_safe_init.backends.sqlite3.lock_file import (
    FileLock,
)


@pytest.fixture
def path(tmp_path) -> str:
    return str(tmp_path / "lock")


def test_a_holder_in_another_container(path, monkeypatch) -> None:
    """A holder in another container is not ended, and no process or group gets a signal."""
    monkeypatch.setattr(os, "kill", lambda *args: pytest.fail("a signal was sent"))
    for pid in (0, -1, -77):
        assert "cannot be seen from here" in SQLiteLockHolder(pid, None, path).end(1)


def test_a_holder_that_may_not_be_ended(path, monkeypatch) -> None:
    """A process of another user is reported with the command for an administrator."""

    def refuse(*args: Any) -> None:
        raise PermissionError

    lock = FileLock(path)
    assert lock.try_acquire()
    monkeypatch.setattr(os, "kill", refuse)
    reason = SQLiteLockHolder(os.getpid(), None, path).end(1)
    assert reason.endswith(f"an administrator can: kill {os.getpid()}")
    lock.release()


def test_a_holder_that_does_not_end(path, monkeypatch) -> None:
    """A process that keeps the lock after SIGKILL is reported."""
    sent = []
    lock = FileLock(path)
    assert lock.try_acquire()
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append(number))
    reason = SQLiteLockHolder(os.getpid(), None, path).end(0.1)
    assert "has not ended within 0.1 s" in reason
    assert [each.name for each in sent] == ["SIGTERM", "SIGKILL"]
    lock.release()
    assert SQLiteLockHolder(os.getpid(), None, path).end(0.1) is None
    assert len(sent) == 2


def test_a_holder_without_a_command_line(path) -> None:
    """A process is described even if its command line cannot be read."""
    lines = SQLiteLockHolder(2**22 + 1, None, path).lines()
    assert lines[1].endswith("a process that cannot be looked into")
