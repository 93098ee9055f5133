"""Hold the leader lock of a SQLite database: the operating system's lock on a file beside it.

The leader holds two record locks (`fcntl`), on two bytes of the file:

- One belongs to the open file. No other use of the file by the process releases this lock. A
  forked child would share the lock, so a child closes the inherited descriptor.
- One belongs to the process, and shows the process id to other processes. The system releases this
  lock as soon as the process closes *any* descriptor of the file. So the open file's lock decides
  who leads, and `verify` acquires the process's lock again.

Some systems have no locks of open files. There, the process's lock decides.

Record locks do not exclude threads, so this module remembers the locks of its own process.
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

from django_safe_init.core.progress import OperationProgress, ProgressUpdate
from django_safe_init.exceptions import (
    DatabaseUnreachable,
    LockLost,
    MissingPrivilege,
    UnsafeConnection,
)

#: The layout of the C structure `flock`, and the places of its fields: type, whence, start,
#: length, process.
_LINUX = ("@hhqqi0q", (0, 1, 2, 3, 4))
_BSD = ("@qqihh", (3, 4, 0, 1, 2))
_FORMAT, _PLACES = _LINUX if sys.platform == "linux" else _BSD
#: The call for a lock of an open file; None on a system without such locks.
_OFD: int | None = getattr(fcntl, "F_OFD_SETLK", None)

#: The byte of the process's lock, and the byte of the open file's lock.
_PROCESS_BYTE, _FILE_BYTE = 0, 1

#: The size of a progress record. It is less than a page, so the system writes it at once.
_PROGRESS_BYTES = 2048

_guard = threading.RLock()
#: The locks that this process holds, by the real path of their file.
_held: dict[str, FileLock] = {}


class FileLock:
    """The leader lock on a file, as `backends.base.lock.Lock` describes it.

    The file is never removed, because a second process could then lock a second file.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._file = -1

    def try_acquire(self) -> bool:
        """Acquire the lock if it is free. Never waits.

        Raises `DatabaseUnreachable`, `MissingPrivilege` or `UnsafeConnection` if the file cannot
        be opened or locked.
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
            raise _missing_privilege(self.path, exc) from exc

    def _lock(self, file: int) -> bool:
        """Lock both bytes, so that the holder of the process's lock has the file's lock."""
        return self._lock_byte(file, _FILE_BYTE) and self._lock_byte(
            file, _PROCESS_BYTE
        )

    def _lock_byte(self, file: int, byte: int) -> bool:
        try:
            if byte == _PROCESS_BYTE:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
            elif _OFD is not None:
                fcntl.fcntl(file, _OFD, _flock_struct(fcntl.F_WRLCK, byte))
        except (BlockingIOError, PermissionError):  # POSIX allows either for fcntl()
            return False
        except OSError as exc:
            raise UnsafeConnection(
                f"The file system of {self.path} has no locks ({exc.strerror}), on which SQLite "
                "relies, too. Keep the database on another one."
            ) from exc
        return True

    def verify(self) -> None:
        with _guard:
            if _held.get(self.path) is not self:
                raise LockLost("This process does not hold the leader lock.")
            if not _is_at(self._file, self.path):
                raise LockLost(f"The leader lock's file was replaced: {self.path}.")
            # This changes nothing while the lock is held, and fails if another process has it.
            if not self._lock(self._file):
                raise LockLost(f"Another process holds the leader lock: {self.path}.")

    def beat(self, progress: bytes = b"") -> None:
        """Record a heartbeat, as the file's modification time. Raises `LockLost`.

        `progress` is an encoded `ProgressRecord`, which `read_progress` then returns. Empty
        keeps the record in the file.
        """
        with _guard:
            self.verify()
            if progress:
                with suppress(OSError):  # a full disk must not end the heartbeat
                    # One write of a fixed length: a reader sees either the old record or the new.
                    os.pwrite(self._file, progress.ljust(_PROGRESS_BYTES), 0)
            os.utime(self._file)

    def release(self) -> None:
        with _guard:
            try:
                self.verify()
            finally:
                self._close()

    def _close(self) -> None:
        if _held.get(self.path) is self:
            del _held[self.path]
            os.close(self._file)


def holder_pid(path: str) -> int | None:
    """Return the id of the process that holds the lock on the file, or None if it is free.

    The id is 0 if the process cannot be identified, for example in another container. Any
    process that may read the file can call this. Raises `MissingPrivilege`.
    """
    with _guard:
        if path in _held:
            return os.getpid()
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as exc:
            raise _missing_privilege(path, exc) from exc
        try:
            return _locking_pid(file)
        finally:
            os.close(file)


def _locking_pid(file: int) -> int | None:
    for byte in (_PROCESS_BYTE, _FILE_BYTE):
        request = _flock_struct(fcntl.F_WRLCK, byte)
        fields = struct.unpack(_FORMAT, fcntl.fcntl(file, fcntl.F_GETLK, request))
        if fields[_PLACES[0]] != fcntl.F_UNLCK:
            pid: int = fields[_PLACES[-1]]
            return max(0, pid)  # -1 for the lock of an open file
    return None


def _flock_struct(kind: int, byte: int) -> bytes:
    """Return the C structure `flock` for a lock of that kind on one byte."""
    fields = dict(zip(_PLACES, (kind, os.SEEK_SET, byte, 1, 0), strict=True))
    return struct.pack(_FORMAT, *(fields[place] for place in sorted(fields)))


def read_progress(path: str) -> bytes:
    """Return the newest progress record in the file, padded with spaces.

    Empty if no record can be read.
    """
    with _guard:
        if path in _held:  # closing another descriptor would release the process's lock
            return os.pread(_held[path]._file, _PROGRESS_BYTES, 0)
        try:
            with open(path, "rb") as file:
                return file.read(_PROGRESS_BYTES)
        except OSError:
            return b""


def silence_seconds(path: str) -> float:
    """Return the seconds since the last heartbeat of any holder; infinity without one."""
    try:
        return max(0.0, time.time() - os.stat(path).st_mtime)
    except OSError:
        return float("inf")


def _missing_privilege(path: str, error: OSError) -> MissingPrivilege:
    return MissingPrivilege(
        f"The leader lock cannot be opened: {error.strerror}: {path}. Let this user read and "
        "write the file and its folder, as SQLite itself needs it."
    )


def _is_at(file: int, path: str) -> bool:
    """Return True if the path still names the open file."""
    try:
        named = os.stat(path)
    except FileNotFoundError:
        return False
    return os.path.samestat(named, os.fstat(file))


def _close_in_child() -> None:
    """Close the inherited lock files, because a forked child holds none of the locks."""
    global _guard
    _guard = threading.RLock()  # another thread may have held it at the fork
    for lock in _held.values():
        with suppress(OSError):
            os.close(lock._file)
    _held.clear()


os.register_at_fork(after_in_child=_close_in_child)


class ProgressRecord(NamedTuple):
    """The progress of a leader's run and of its running step, in the lock file."""

    run: int
    done: int
    progress: int
    items: ProgressUpdate | None
    #: The running operation, and the message with it.
    operation: OperationProgress | None = None
    message: str = ""

    def encoded(self) -> bytes:
        """Return the bytes for the file. Versions without operations read four values."""
        values = self if self.operation else self[:4]
        return json.dumps(values, ensure_ascii=False).encode()


def _decoded(text: bytes) -> ProgressRecord | None:
    try:
        run, done, progress, items, *running = json.loads(text)
        operation, message = running or (None, "")
        return ProgressRecord(
            run,
            done,
            progress,
            items and ProgressUpdate(*items),
            operation and OperationProgress(*operation),
            str(message),
        )
    except (ValueError, TypeError):  # no record, or one of another version
        return None


def with_progress(values: dict[str, Any], text: bytes) -> dict[str, Any]:
    """Return the columns of an open run, updated with the progress record in `text`.

    A record of another run or step changes nothing.
    """
    record = _decoded(text)
    if record is None or (record.run, record.done) != (values["id"], values["done"]):
        return values
    items = record.items._asdict() if record.items else {}
    if record.operation:
        running = {
            "operation": json.dumps(record.operation),
            "message": record.message,
        }
        values = {**values, **running}
    return {
        **values,
        "progress": max(values["progress"], record.progress),
        **{f"item_{name}": value for name, value in items.items()},
    }
