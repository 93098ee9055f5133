"""The leader lock of SQLite: a record lock on a file beside the database."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from django_safe_init import (
    DatabaseUnreachable,
    LockLost,
    MissingPrivilege,
    UnsafeConnection,
)
from django_safe_init.backends.sqlite3 import lock_file as lock_module
from django_safe_init.backends.sqlite3.lock_file import (
    FileLock,
    holder_pid,
    silence_seconds,
)
from tests.support import ENDLESS


@pytest.fixture
def path(tmp_path) -> str:
    return str(tmp_path / "lock")


def test_within_one_process(path) -> None:
    """Two locks of one process exclude each other, unlike the operating system's record locks."""
    first, second = FileLock(path), FileLock(path)
    assert holder_pid(path) is None
    assert silence_seconds(path) == float("inf")
    assert first.try_acquire()
    assert not second.try_acquire()
    assert holder_pid(path) == os.getpid()
    first.release()
    assert second.try_acquire()
    os.utime(path, (1, 1))
    assert silence_seconds(path) > ENDLESS
    second.beat()
    assert silence_seconds(path) < ENDLESS
    second.release()
    assert holder_pid(path) is None


def test_not_held(path) -> None:
    """A lock that is not held raises `LockLost` from `verify`, `beat` and `release`."""
    lock = FileLock(path)
    for call in (lock.verify, lock.beat, lock.release):
        with pytest.raises(LockLost):
            call()


@pytest.mark.parametrize("gone", [True, False])
def test_a_replaced_file(path, gone) -> None:
    """A holder whose lock file was removed or replaced raises `LockLost`."""
    lock = FileLock(path)
    assert lock.try_acquire()
    os.unlink(path)
    if not gone:
        Path(path).touch()
    with pytest.raises(LockLost, match="was replaced"):
        lock.verify()
    with pytest.raises(LockLost):
        lock.release()
    assert lock.try_acquire()
    lock.release()


def test_replaced_between_opening_and_locking(path, monkeypatch) -> None:
    """A lock file that was replaced after it was opened gives no lock."""
    monkeypatch.setattr(lock_module, "_is_at", lambda file, path: False)
    assert not FileLock(path).try_acquire()


def test_taken_by_another_process(path, monkeypatch) -> None:
    """A lock that another process has taken raises `LockLost`."""
    lock = FileLock(path)
    assert lock.try_acquire()

    def refuse(*args: Any) -> None:
        raise BlockingIOError

    with monkeypatch.context() as patched:
        patched.setattr(lock_module.fcntl, "lockf", refuse)
        with pytest.raises(LockLost, match="Another process"):
            lock.verify()
    lock.release()


def test_no_locks(path, monkeypatch) -> None:
    """A file system without locks is refused."""

    def refuse(*args: Any) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(lock_module.fcntl, "lockf", refuse)
    with pytest.raises(UnsafeConnection, match=r"has no locks \(Operation not"):
        FileLock(path).try_acquire()


def test_no_folder(tmp_path) -> None:
    """A missing folder is reported."""
    lock = FileLock(str(tmp_path / "nowhere" / "lock"))
    with pytest.raises(DatabaseUnreachable, match="folder of the database file"):
        lock.try_acquire()
    assert holder_pid(lock.path) is None


def test_no_right(tmp_path, monkeypatch) -> None:
    """A lock file that cannot be opened is a `MissingPrivilege` error with its path."""

    def refuse(*args: Any) -> None:
        raise PermissionError(13, "Permission denied")

    path = str(tmp_path / "lock")
    monkeypatch.setattr(os, "open", refuse)
    for call in (FileLock(path).try_acquire, lambda: holder_pid(path)):
        with pytest.raises(
            MissingPrivilege, match=r"Permission denied: /.* Let this user"
        ):
            call()


def test_a_forked_child_holds_nothing(path) -> None:
    """A forked child holds no lock of its parent, and its exit releases none."""
    lock = FileLock(path)
    assert lock.try_acquire()
    pid = os.fork()
    if pid == 0:
        code = 0
        try:
            lock.verify()
        except LockLost:
            code = 0 if holder_pid(path) == os.getppid() else 2
        else:
            code = 1
        os._exit(code)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    lock.verify()
    lock.release()


CONTEND = """
import sys
from django_safe_init.backends.sqlite3.lock_file import FileLock
sys.exit(0 if FileLock(sys.argv[1]).try_acquire() else 3)
"""


def another_process_acquires(path: str) -> bool:
    code = subprocess.call([sys.executable, "-c", CONTEND, path])
    assert code in (0, 3)
    return code == 0


def test_the_file_is_read_by_its_own_process(path) -> None:
    """Reading the lock file in the holder's process, as a backup does, releases nothing."""
    lock = FileLock(path)
    assert lock.try_acquire()
    Path(path).read_bytes()
    assert not another_process_acquires(path)
    lock.verify()
    assert not another_process_acquires(path)
    lock.release()
    assert another_process_acquires(path)


def test_a_system_without_locks_of_open_files(path, monkeypatch) -> None:
    """On a system without open file description locks, process locks exclude each other."""
    monkeypatch.setattr(lock_module, "_OFD", None)
    lock = FileLock(path)
    assert lock.try_acquire()
    lock.verify()
    assert not another_process_acquires(path)
    lock.release()


def test_an_unknown_holder(path) -> None:
    """An open file description lock does not tell the holder's process id."""
    with open(path, "w+b") as file:
        request = lock_module._flock_struct(fcntl.F_WRLCK, 1)
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, request)
        assert holder_pid(path) == 0
        assert not FileLock(path).try_acquire()


def test_structures() -> None:
    """Both layouts of `struct flock` have the same five fields."""
    for layout, places in (lock_module._LINUX, lock_module._BSD):
        assert sorted(places) == [0, 1, 2, 3, 4]
        assert len(struct.unpack(layout, bytes(struct.calcsize(layout)))) == 5
