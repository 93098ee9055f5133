"""Tell a process that a development server has reloaded from the server's first processes.

A reload comes with each saved file, so the code of its process may be half-written. The server
outlives its reloads, and each process records itself in a file of that server. A process that
replaces an earlier one is a reload. Servers without a reloader replace processes, too, for
example a worker that was killed. Therefore only processes under a reloader record themselves.
"""

from __future__ import annotations

import fcntl
import gc
import glob
import multiprocessing
import os
import sys
import time
from contextlib import suppress

from django_safe_init.serving.background.host_lock import (
    open_own_file,
    temporary_folder,
)

#: Set to "true" in the process that serves, by Django's `runserver` and by Werkzeug, whose
#: reloader `runserver_plus` uses.
_RUNSERVER_VARIABLES = ("RUN_MAIN", "WERKZEUG_RUN_MAIN")
#: Set by the command `watchfiles`, in a process that it starts again, to the changed files.
_WATCHFILES_VARIABLE = "WATCHFILES_CHANGES"
#: When this process loaded the module, which the web process does at its start.
_LOADED = time.monotonic()
#: The attributes of a configuration by which uvicorn and hypercorn enable their reloader.
_CONFIG_FLAGS = ("should_reload", "use_reloader")


def reloading_server() -> int | None:
    """Return the process that may replace this one, or None for a process that it started."""
    if _under_runserver():
        return os.getppid()
    parent = multiprocessing.parent_process()
    if parent is not None:
        return parent.pid
    is_gunicorn = os.environ.get("SERVER_SOFTWARE", "").startswith("gunicorn/")
    return os.getppid() if is_gunicorn else None


def has_reloader() -> bool:
    """Return True if this process's server replaces it whenever code changes."""
    if _under_runserver() or _gunicorn_has_reloader():
        return True
    if multiprocessing.parent_process() is None:
        return False
    return _option_is_set() or _config_has_reloader()


def _under_runserver() -> bool:
    return any(os.environ.get(name) == "true" for name in _RUNSERVER_VARIABLES)


def _gunicorn_has_reloader() -> bool:
    """Return True if gunicorn has created its reloader, which it does before the application.

    It starts the reloader's thread later, and its worker is in no variable that others can read.
    """
    if "gunicorn.reloader" not in sys.modules:
        return False
    return any(
        type(each).__module__ == "gunicorn.reloader" for each in gc.get_objects()
    )


def _option_is_set() -> bool:
    """Return True if the server's command line, or granian's variable, enables the reloader."""
    variable = os.environ.get("GRANIAN_RELOAD", "").lower()
    return "--reload" in sys.argv or variable in ("1", "true", "yes", "on")


def _config_has_reloader() -> bool:
    """Return True if the configuration that the server passed to this process says so."""
    arguments = getattr(multiprocessing.current_process(), "_kwargs", {})
    config = arguments.get("config")
    return any(getattr(config, name, False) for name in _CONFIG_FLAGS)


class ReloadDetector:
    """The record of whether this process replaces an earlier one of its server."""

    def __init__(self) -> None:
        self._pid = 0
        self._replaces = False

    def register(self) -> None:
        """Record this process in the file of a server that reloads, when the application loads."""
        if self._pid == os.getpid():
            return
        self._pid = os.getpid()
        server = reloading_server() if has_reloader() else None
        self._replaces = server is not None and _register(server)

    @property
    def is_reload(self) -> bool:
        """True if a development server has started this process because code changed."""
        if os.environ.get(_WATCHFILES_VARIABLE, "[]") != "[]":
            return True
        return self._replaces


def _register(server: int) -> bool:
    """Add this process to the server's file; return True if an earlier process has exited.

    Without a place for the file, nothing is known, and True is the safe answer.
    """
    _delete_old_files()
    file = open_own_file(_path(server, started_at(server)), os.O_CREAT)
    if file is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        size = os.fstat(file).st_size
        earlier = os.pread(file, size, 0).decode().splitlines()
        own = f"{os.getpid()} {started_at(os.getpid())}\n"
        os.pwrite(file, own.encode(), size)
    finally:
        os.close(file)
    return any(map(_has_exited, earlier))


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
