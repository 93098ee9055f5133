"""A file lock that allows one child process per host to initialize.

All workers of a host that would initialize the same databases for the same build share one lock
file. The worker that locks it starts a child; the others start none. The leader lock in the
database decides who leads: this lock only saves processes, so a host without a place for the
file works too.

The lock is `flock` on a file in the folder for temporary files. It belongs to the open file: a
process that inherits the descriptor holds it, and it is free when the last of them has exited.
Releasing it deletes the file. If two processes then lock two files, one child too many starts.
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
#: Enough for an `OrphanedChild`, which is two numbers.
_RECORD_BYTES = 64


class OrphanedChild(NamedTuple):
    """A child process that keeps running although the worker that started it has exited."""

    pid: int
    #: The process that replaces the workers. The child ends with it.
    server: int


class HostLock:
    """The lock of one set of databases and one build on this host."""

    def __init__(self, path: str) -> None:
        self.path = path
        #: The descriptor that holds the lock; None while this process does not hold it.
        self.file: int | None = None

    def acquire(self) -> bool:
        """Acquire the lock if it is free, without waiting.

        Returns True also if the file cannot be created, or belongs to another user.
        """
        file = open_own_file(self.path, os.O_CREAT)
        if file is None:
            return True
        if not _lock(file):
            os.close(file)
            return False
        os.ftruncate(file, 0)
        self.file = file
        return True

    def close(self) -> None:
        """Close this process's descriptor; a child that inherited one keeps the lock."""
        if self.file is not None:
            os.close(self.file)
        self.file = None

    def release(self) -> None:
        """Release the lock for all processes, and delete its file."""
        if self.file is not None:
            with suppress(OSError):
                os.unlink(self.path)
        self.close()

    def set_orphan(self, child: OrphanedChild) -> None:
        """Record the child that continues without this process, so that others can end it."""
        if self.file is not None:
            os.pwrite(self.file, json.dumps(child).encode(), 0)

    def orphan(self) -> OrphanedChild | None:
        """Return the child that holds the lock although its worker has exited, or None."""
        file = open_own_file(self.path)
        if file is None:
            return None
        try:
            return None if _lock(file) else _parse(os.pread(file, _RECORD_BYTES, 0))
        finally:
            os.close(file)


def host_lock(build: Build) -> HostLock:
    """Return the lock for the databases of the settings and this build."""
    settings = get_settings()
    databases = [
        [alias, *(str(connections.settings[alias].get(key)) for key in _DATABASE)]
        for alias in settings.databases
    ]
    module = os.environ.get(ENVIRONMENT_VARIABLE)
    identity: list[Any] = [module, build.fingerprint, settings.lock_key, databases]
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]
    name = f"django-safe-init-{os.geteuid()}-{digest}.lock"
    return HostLock(os.path.join(temporary_folder(), name))


def temporary_folder() -> str:
    """Return the folder for temporary files, or a path that can hold no file."""
    try:
        return tempfile.gettempdir()
    except FileNotFoundError:
        return os.devnull


def open_own_file(path: str, more: int = 0) -> int | None:
    """Open a file in the folder for temporary files; None if it is missing or another user's.

    `more` are flags of `os.open`.
    """
    try:
        file = os.open(path, _FLAGS | more, 0o600)
    except OSError:
        return None
    found = os.fstat(file)
    # All users can write to the folder: another one may have created a file of this name.
    if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid():
        return file
    os.close(file)
    return None


def _lock(file: int) -> bool:
    """Lock the file, and return True, if it was not locked."""
    with suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _parse(record: bytes) -> OrphanedChild | None:
    try:
        return OrphanedChild(*json.loads(record))
    except (ValueError, TypeError):  # empty: the worker of this child is alive
        return None
