"""The lock by which one worker of a host starts a child."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from django.db import connections

from django_safe_init.core.build import Build
from django_safe_init.serving.background.host_lock import (
    HostLock,
    OrphanedChild,
    host_lock,
)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "lock")


def test_one_holder(path: str) -> None:
    """Only one holder acquires the lock until it is closed; closing twice is harmless."""
    one, other = HostLock(path), HostLock(path)
    assert one.acquire()
    assert not other.acquire()
    assert other.file is None
    one.close()
    one.close()
    assert other.acquire()
    other.close()


def test_it_leaves_no_file(path: str) -> None:
    """Releasing deletes the file if it still exists; reading the orphan creates none."""
    lock = HostLock(path)
    assert lock.orphan() is None
    assert not os.path.exists(path)
    assert lock.acquire()
    lock.release()
    lock.release()
    assert not os.path.exists(path)
    assert lock.acquire()
    os.unlink(path)
    lock.release()


def test_a_child_keeps_it(path: str) -> None:
    """A process that inherited the descriptor holds the lock until it exits."""
    lock = HostLock(path)
    assert lock.acquire()
    command = [sys.executable, "-c", "input()"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, pass_fds=[lock.file or 0]
    ) as child:
        lock.close()
        assert not lock.acquire()
        child.kill()
    assert lock.acquire()
    lock.close()


def test_an_orphan(path: str) -> None:
    """The recorded orphan is known only while it holds the lock."""
    lock, other = HostLock(path), HostLock(path)
    assert other.orphan() is None
    assert lock.acquire()
    assert other.orphan() is None
    lock.set_orphan(OrphanedChild(4711, 17))
    assert other.orphan() == OrphanedChild(4711, 17)
    lock.close()
    assert other.orphan() is None
    assert lock.acquire()
    assert other.orphan() is None  # acquiring it has cleared the record
    lock.close()


@pytest.mark.parametrize(
    "what", ["no folder", "a folder", "a link", "of another user", "a pipe"]
)
def test_no_such_file_is_possible(
    path: str, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Without a possible file, every process acquires the lock: it only saves memory."""
    if what == "no folder":
        path += "/lock"
    elif what == "a folder":
        os.mkdir(path)
    elif what == "a link":
        os.symlink("/dev/null", path)
    elif what == "a pipe":
        os.mkfifo(path)
    else:
        Path(path).touch()
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    lock, other = HostLock(path), HostLock(path)
    assert lock.acquire()
    assert other.acquire()
    assert lock.file is None
    lock.set_orphan(OrphanedChild(4711, 17))
    assert other.orphan() is None
    lock.close()


def test_nowhere_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a read-only container without a folder for temporary files, no worker waits."""

    def nowhere() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    lock = host_lock(Build(frozenset(), "one"))
    assert lock.acquire()
    assert (lock.file, lock.orphan()) == (None, None)
    lock.release()


def test_its_identity(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each set of build, databases, lock key and settings has its own lock; the path hides them."""
    builds = Build(frozenset(), "one"), Build(frozenset(), "other")
    one = host_lock(builds[0])
    assert one.path == host_lock(builds[0]).path
    assert os.path.dirname(one.path) == tempfile.gettempdir()
    paths = {one.path, host_lock(builds[1]).path}
    settings.SAFE_INIT = {"LOCK_KEY": "shop"}
    paths.add(host_lock(builds[0]).path)
    settings.SAFE_INIT = {}
    changed = {**connections.settings["default"], "NAME": "another"}
    monkeypatch.setitem(connections.settings, "default", changed)
    paths.add(host_lock(builds[0]).path)
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "another.settings")
    paths.add(host_lock(builds[0]).path)
    assert len(paths) == 5
    assert not [each for each in paths if os.path.exists(each)]
