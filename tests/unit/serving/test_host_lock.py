"""The lock of a host, by which one process of it starts a child."""

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


def test_one_has_it(path: str) -> None:
    """Nobody else, until it is dropped; that may be done twice."""
    one, other = HostLock(path), HostLock(path)
    assert one.acquire()
    assert not other.acquire()
    assert other.file is None
    one.close()
    one.close()
    assert other.acquire()
    other.close()


def test_it_leaves_no_file(path: str) -> None:
    """Who gives it up for all removes the file, if it is still there; a look makes none."""
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
    """Who has inherited the descriptor holds the lock, and for as long as it lives."""
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


def test_an_heir(path: str) -> None:
    """Who goes on is known while it holds the lock, and no longer."""
    lock, other = HostLock(path), HostLock(path)
    assert other.orphan() is None
    assert lock.acquire()
    assert other.orphan() is None
    lock.set_orphan(OrphanedChild(4711, 17))
    assert other.orphan() == OrphanedChild(4711, 17)
    lock.close()
    assert other.orphan() is None
    assert lock.acquire()
    assert other.orphan() is None  # what an earlier holder has noted is gone
    lock.close()


@pytest.mark.parametrize(
    "what", ["no folder", "a folder", "a link", "somebody else's", "a pipe"]
)
def test_where_there_can_be_no_such_file(
    path: str, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Then everybody has the lock: it saves memory, and decides nothing."""
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
    """Where there is no folder for temporary files, as in a read-only container, nobody waits."""

    def nowhere() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    lock = host_lock(Build(frozenset(), "one"))
    assert lock.acquire()
    assert (lock.file, lock.orphan()) == (None, None)
    lock.release()


def test_what_it_is_about(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same build and databases have one lock, others another; it gives away nothing."""
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
