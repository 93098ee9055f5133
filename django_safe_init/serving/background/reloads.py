"""Tell a process that a development server has reloaded from the server's first processes.

A reload comes with each saved file, so the code of its process may be half-written, also where
the first process failed before it loaded this package. gunicorn, uvicorn, hypercorn and granian
number their processes. Django's `runserver` does not: its processes record themselves in a file.
"""

from __future__ import annotations

import fcntl
import gc
import glob
import math
import multiprocessing
import os
import sys
import time
from contextlib import suppress
from typing import Any

from django_safe_init.core.process import is_under_runserver, runs_runserver
from django_safe_init.serving.background.host_lock import (
    open_own_file,
    temporary_folder,
)

#: Set by the command `watchfiles`, in a process that it starts again, to the changed files.
_WATCHFILES_VARIABLE = "WATCHFILES_CHANGES"
#: When this process loaded the module, which the web process does at its start.
_LOADED = time.monotonic()


def reloading_server() -> int | None:
    """Return the process that may replace this one, or None for a process that it started."""
    if is_under_runserver():
        return os.getppid()
    parent = multiprocessing.parent_process()
    if parent is not None:
        return parent.pid
    is_gunicorn = os.environ.get("SERVER_SOFTWARE", "").startswith("gunicorn/")
    return os.getppid() if is_gunicorn else None


def _is_replacement() -> bool:
    """Return True if a development server has started others before its present processes."""
    if is_under_runserver():
        return _register(os.getppid())
    worker = _gunicorn_worker()
    if worker is not None:
        return bool(worker.cfg.reload) and worker.age > worker.cfg.workers
    process = multiprocessing.current_process()
    numbers: tuple[int, ...] = getattr(process, "_identity", ())
    return bool(numbers) and numbers[-1] > _count_of_first(process)


def _gunicorn_worker() -> Any:
    """Return gunicorn's worker in this process, or None.

    It is in no variable that others can read. In a process that gunicorn has forked, the workers
    beside this one are older.
    """
    module = sys.modules.get("gunicorn.workers.base")
    if module is None:
        return None
    found = [each for each in gc.get_objects() if issubclass(type(each), module.Worker)]
    return max(found, key=lambda worker: worker.age, default=None)


def _count_of_first(process: Any) -> float:
    """Return the number of the last process that the server starts at first.

    The number is infinite for a server without a reloader.
    """
    config: Any = getattr(process, "_kwargs", {}).get("config")
    if getattr(config, "should_reload", False):
        return 1  # uvicorn
    if getattr(config, "use_reloader", False):
        return int(config.workers)  # hypercorn
    if not _option_is_set():
        return math.inf
    # granian passes the number of the place that the process takes.
    place = next(iter(getattr(process, "_args", ())), 1)
    return place if isinstance(place, int) else 1


def _option_is_set() -> bool:
    """Return True if the server's command line, or granian's variable, enables the reloader."""
    variable = os.environ.get("GRANIAN_RELOAD", "").lower()
    return "--reload" in sys.argv or variable in ("1", "true", "yes", "on")


class ReloadDetector:
    """The record of whether this process replaces an earlier one of its server."""

    def __init__(self) -> None:
        self._pid = 0
        self._replaces = False

    def register(self) -> None:
        """Find out whether this process replaces an earlier one, once."""
        if self._pid == os.getpid():
            return
        self._pid = os.getpid()
        self._replaces = _is_replacement()

    def register_early(self) -> None:
        """Record a process of `runserver` before it loads code that may be broken.

        The reloader of Django's command loads the same code first, and creates the file. Without
        the file, each process of the reloader is a reload.
        """
        if is_under_runserver():
            self.register()
        else:
            file = _open_file(os.getpid(), os.O_CREAT)
            if file is not None:
                os.close(file)

    @property
    def is_reload(self) -> bool:
        """True if a development server has started this process because code changed."""
        if os.environ.get(_WATCHFILES_VARIABLE, "[]") != "[]":
            return True
        return self._replaces


def _register(server: int) -> bool:
    """Add this process to the server's file; return True if an earlier process has exited.

    Without the file, nothing is known, and True is the safe answer.
    """
    file = _open_file(server, 0 if runs_runserver() else os.O_CREAT)
    if file is None:
        return True
    with suppress(OSError), open(file, "r+", encoding="ascii") as lines:
        fcntl.flock(lines, fcntl.LOCK_EX)
        earlier = lines.read().splitlines()
        lines.write(f"{os.getpid()} {started_at(os.getpid())}\n")
        return any(map(_has_exited, earlier))
    return True


def _open_file(server: int, flags: int) -> int | None:
    """Open the file of this server, and delete the files of servers that have exited."""
    _delete_old_files()
    return open_own_file(_path(server, started_at(server)), flags)


def _path(server: int | str, started: str | None) -> str:
    name = f"django-safe-init-{os.geteuid()}-server-{server}-{started}.txt"
    return os.path.join(temporary_folder(), name)


def _delete_old_files() -> None:
    """Delete the files of servers that have exited."""
    for path in glob.glob(_path("*", "*")):
        pid, _, started = path[:-4].rpartition("-server-")[2].partition("-")
        if _has_exited(f"{pid} {started}"):
            with suppress(OSError):
                os.unlink(path)


def _has_exited(identity: str) -> bool:
    """Return True unless the process runs that has this ID and was started at that time."""
    pid, _, started = identity.partition(" ")
    return not pid.isdecimal() or started_at(int(pid)) != started


def started_at(pid: int) -> str | None:
    """Return when a process was started, in a unit of the system; None if it has exited.

    The time tells a process from an earlier one with the same ID. It is "0" where the system has
    no `/proc`.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name of the program comes before these fields, and may contain anything.
            state, *fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None if os.path.exists("/proc/self/stat") else _without_proc(pid)
    return None if state in (b"Z", b"X") else fields[18].decode()


def server_seconds() -> float:
    """Return how long ago this process's server was started, or this process without one."""
    started = started_at(reloading_server() or os.getpid())
    if started in (None, "0") or not hasattr(time, "CLOCK_BOOTTIME"):
        return time.monotonic() - _LOADED
    ticks = os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(started or 0) / ticks


def _without_proc(pid: int) -> str | None:
    with suppress(PermissionError):  # the server may be another user's
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
    return "0"


#: The detector of this process.
detector = ReloadDetector()
