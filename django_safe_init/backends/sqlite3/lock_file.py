"""The leader lock of a SQLite database: the operating system's, on a file beside it.

It is two record locks (`fcntl`) on two bytes. The first belongs to the open file: nothing else
that this process does with the file can free it. A forked child would share it, so children
close what they have inherited. The second belongs to the process, and tells everybody which one
that is; it is free as soon as *any* descriptor of the file is closed, so the first decides, and
the second is taken again. Where a system knows only the second kind, that one has to do.

Neither knows threads, so what one process holds is kept here.
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
import sys
import threading
import time
from contextlib import suppress
from typing import Any, NamedTuple

from django_safe_init.core.progress import ProgressUpdate
from django_safe_init.exceptions import (
    DatabaseUnreachable,
    LockLost,
    MissingPrivilege,
    UnsafeConnection,
)

#: What `fcntl(F_GETLK)` takes and gives, as the system's C structure: type, whence, start,
#: length, process.
_LINUX = ("@hhqqi0q", (0, 1, 2, 3, 4))
_BSD = ("@qqihh", (3, 4, 0, 1, 2))
_FORMAT, _PLACES = _LINUX if sys.platform == "linux" else _BSD
#: Linux has locks of an open file; Python names the call where there is one.
_OFD: int | None = getattr(fcntl, "F_OFD_SETLK", None)

#: Which byte has which lock.
_OF_PROCESS, _OF_FILE = 0, 1

#: The size of a progress record: less than a page, so the system writes it at once.
_PROGRESS_BYTES = 2048

_guard = threading.RLock()
#: The locks that this process holds, by the real path of their file.
_held: dict[str, FileLock] = {}


class FileLock:
    """See `locks.base.Lock`. The file stays: to remove it would let two processes lock two."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._file = -1

    def try_acquire(self) -> bool:
        """Take the lock if it is free; never waits.

        Raises `DatabaseUnreachable`, `MissingPrivilege` or `UnsafeConnection` where there can be
        no such file, or no lock on it.
        """
        with _guard:
            if self.path in _held:
                return False
            file = self._open()
            held = False
            try:
                held = self._lock(file) and _is_at(file, self.path)
            finally:
                if not held:
                    os.close(file)
            if held:
                os.ftruncate(file, 0)  # the progress record of an earlier holder
                self._file = file
                _held[self.path] = self
            return held

    def _open(self) -> int:
        try:
            return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except FileNotFoundError as exc:
            raise DatabaseUnreachable(
                f"The folder of the database file is not there: {os.path.dirname(self.path)}. "
                "Create it, or correct NAME."
            ) from exc
        except OSError as exc:
            raise _refused(self.path, exc) from exc

    def _lock(self, file: int) -> bool:
        """Take both; nobody has the process's one who has not the file's one."""
        return self._take(file, _OF_FILE) and self._take(file, _OF_PROCESS)

    def _take(self, file: int, which: int) -> bool:
        try:
            if which == _OF_PROCESS:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, which)
            elif _OFD is not None:
                fcntl.fcntl(file, _OFD, _structure(fcntl.F_WRLCK, which))
        except (BlockingIOError, PermissionError):  # either may be said (POSIX, fcntl)
            return False
        except OSError as exc:
            raise UnsafeConnection(
                f"The file system of {self.path} has no locks ({exc.strerror}), on which SQLite "
                "relies, too. Keep the database on another one."
            ) from exc
        return True

    def verify(self) -> None:
        """Raise `LockLost` unless the lock is held at this moment."""
        with _guard:
            if _held.get(self.path) is not self:
                raise LockLost("This process does not hold the leader lock.")
            if not _is_at(self._file, self.path):
                raise LockLost(f"The leader lock's file was replaced: {self.path}.")
            # Held already, this changes nothing; what somebody else has taken since is lost.
            if not self._lock(self._file):
                raise LockLost(f"Another process holds the leader lock: {self.path}.")

    def beat(self, progress: bytes = b"") -> None:
        """Give a sign of life: the file's time of modification. Raises as `verify` does.

        The note, if there is one, is what `read_progress` returns from then on.
        """
        with _guard:
            self.verify()
            if progress:
                with suppress(OSError):  # a full disk must not end the signs of life
                    # Always the same length, in one call: a reader sees one note or the other.
                    os.pwrite(self._file, progress.ljust(_PROGRESS_BYTES), 0)
            os.utime(self._file)

    def release(self) -> None:
        """Free the lock. Raises `LockLost` if it was not held."""
        with _guard:
            try:
                self.verify()
            finally:
                self._forget()

    def _forget(self) -> None:
        if _held.get(self.path) is self:
            del _held[self.path]
            os.close(self._file)


def holder(path: str) -> int | None:
    """The process that holds the lock on this file, or None; whoever can read it may look.

    0 where it is known that somebody does and not who, for example in another container.
    Raises `MissingPrivilege`.
    """
    with _guard:
        if path in _held:
            return os.getpid()
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as exc:
            raise _refused(path, exc) from exc
        try:
            return _holder(file)
        finally:
            os.close(file)


def _holder(file: int) -> int | None:
    for which in (_OF_PROCESS, _OF_FILE):
        request = _structure(fcntl.F_WRLCK, which)
        found = struct.unpack(_FORMAT, fcntl.fcntl(file, fcntl.F_GETLK, request))
        if found[_PLACES[0]] != fcntl.F_UNLCK:
            pid: int = found[_PLACES[-1]]
            return max(0, pid)  # an open file belongs to no process: -1
    return None


def _structure(kind: int, which: int) -> bytes:
    """The system's description of a lock of that kind on one byte."""
    fields = dict(zip(_PLACES, (kind, os.SEEK_SET, which, 1, 0), strict=True))
    return struct.pack(_FORMAT, *(fields[place] for place in sorted(fields)))


def read_progress(path: str) -> bytes:
    """What the holder has noted last, with blanks behind it; whoever can read the file may look.

    Empty if there is nothing to read.
    """
    with _guard:
        if path in _held:  # to open and close the file would free the lock
            return os.pread(_held[path]._file, _PROGRESS_BYTES, 0)
        try:
            with open(path, "rb") as file:
                return file.read(_PROGRESS_BYTES)
        except OSError:
            return b""


def silence_seconds(path: str) -> float:
    """How long ago the last holder has given a sign of life; endless if there was none."""
    try:
        return max(0.0, time.time() - os.stat(path).st_mtime)
    except OSError:
        return float("inf")


def _refused(path: str, error: OSError) -> MissingPrivilege:
    return MissingPrivilege(
        f"The leader lock cannot be opened: {error.strerror}: {path}. Let this user read and "
        "write the file and its folder, as SQLite itself needs it."
    )


def _is_at(file: int, path: str) -> bool:
    """Whether the path still names the open file."""
    try:
        named = os.stat(path)
    except FileNotFoundError:
        return False
    return os.path.samestat(named, os.fstat(file))


def _forget_in_child() -> None:
    """A forked child holds none of its parent's locks."""
    global _guard
    _guard = threading.RLock()  # another thread may have been in it at the fork
    for lock in _held.values():
        with suppress(OSError):
            os.close(lock._file)
    _held.clear()


os.register_at_fork(after_in_child=_forget_in_child)


class ProgressRecord(NamedTuple):
    """How far a leader's run is, and its running step."""

    run: int
    done: int
    progress: int
    items: ProgressUpdate | None

    def encoded(self) -> bytes:
        """For the file."""
        return json.dumps(self, ensure_ascii=False).encode()


def _decoded(text: bytes) -> ProgressRecord | None:
    try:
        run, done, progress, items = json.loads(text)
        return ProgressRecord(run, done, progress, items and ProgressUpdate(*items))
    except (ValueError, TypeError):  # none, or one of another version
        return None


def with_progress(values: dict[str, Any], text: bytes) -> dict[str, Any]:
    """The columns of an open run, with what its leader has noted since they were written."""
    note = _decoded(text)
    if note is None or (note.run, note.done) != (values["id"], values["done"]):
        return values
    told = note.items._asdict() if note.items else {}
    return {
        **values,
        "progress": max(values["progress"], note.progress),
        **{f"item_{name}": value for name, value in told.items()},
    }
