"""A lock that one child process of a host holds for as long as it lives.

Of all workers of all servers on a host that would initialize the same databases for the same
build, one starts a child; the others need not start a process only to see that it came too late.
The leader lock decides who leads: this one saves memory, and where there can be no such file
nothing is lost but that.

It is `flock` on a file in the folder for temporary files. That lock belongs to the open file, so
whoever inherits the descriptor holds it; it is free when the last of them has ended. The file
goes with its lock: should two processes lock two files meanwhile, that is one child too many.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import stat
import tempfile
from contextlib import suppress
from typing import Any, NamedTuple

from django.conf import ENVIRONMENT_VARIABLE
from django.db import connections

from django_safe_init.conf import get_settings
from django_safe_init.core.build import Build

_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
_DATABASE = ("ENGINE", "HOST", "PORT", "NAME", "USER")
#: Of a note, which is two numbers.
_NOTE_BYTES = 64


class OrphanedChild(NamedTuple):
    """A child that goes on although the worker that started it has ended."""

    pid: int
    #: The process with which it ends: the one that replaces the workers.
    server: int


class HostLock:
    """The lock of one set of databases and one build on this host."""

    def __init__(self, path: str) -> None:
        self.path = path
        #: The descriptor that holds the lock; None while this process does not.
        self.file: int | None = None

    def take(self) -> bool:
        """Take it if it is free; never waits.

        True also where there can be no such file, or somebody else's is in its place.
        """
        file = _open(self.path, os.O_CREAT)
        if file is None:
            return True
        if not _lock(file):
            os.close(file)
            return False
        os.ftruncate(file, 0)
        self.file = file
        return True

    def drop(self) -> None:
        """Give up this process's hold; a child that has inherited it keeps its own."""
        if self.file is not None:
            os.close(self.file)
        self.file = None

    def remove(self) -> None:
        """Give it up for all."""
        if self.file is not None:
            with suppress(OSError):
                os.unlink(self.path)
        self.drop()

    def bequeath(self, heir: OrphanedChild) -> None:
        """Note who goes on without this process, for whoever has to end it."""
        if self.file is not None:
            os.pwrite(self.file, json.dumps(heir).encode(), 0)

    def heir(self) -> OrphanedChild | None:
        """The child that holds the lock though its worker has ended, if there is one."""
        file = _open(self.path)
        if file is None:
            return None
        try:
            return None if _lock(file) else _heir(os.pread(file, _NOTE_BYTES, 0))
        finally:
            os.close(file)


def host_lock(build: Build) -> HostLock:
    """The lock for the databases in the settings and this build."""
    settings = get_settings()
    databases = [
        [alias, *(str(connections.settings[alias].get(key)) for key in _DATABASE)]
        for alias in settings.databases
    ]
    module = os.environ.get(ENVIRONMENT_VARIABLE)
    about: list[Any] = [module, build.fingerprint, settings.lock_key, databases]
    digest = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]
    name = f"django-safe-init-{os.geteuid()}-{digest}.lock"
    return HostLock(os.path.join(_folder(), name))


def _folder() -> str:
    """The one for temporary files; where none can be written, one that holds no file."""
    try:
        return tempfile.gettempdir()
    except FileNotFoundError:
        return os.devnull


def _open(path: str, more: int = 0) -> int | None:
    try:
        file = os.open(path, _FLAGS | more, 0o600)
    except OSError:
        return None
    seen = os.fstat(file)
    # The folder is everybody's: who finds a file there may not have made it.
    if stat.S_ISREG(seen.st_mode) and seen.st_uid == os.geteuid():
        return file
    os.close(file)
    return None


def _lock(file: int) -> bool:
    """Whether it was free, and is held now."""
    with suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _heir(note: bytes) -> OrphanedChild | None:
    try:
        return OrphanedChild(*json.loads(note))
    except (ValueError, TypeError):  # its worker is alive
        return None
