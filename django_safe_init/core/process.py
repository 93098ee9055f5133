"""Tell how long this process has run, and whether it belongs to `runserver`."""

from __future__ import annotations

import os
import sys
import time

#: Set to "true" in the process that serves, by Django's `runserver` and by Werkzeug, whose
#: reloader `runserver_plus` uses.
_RUNSERVER_VARIABLES = ("RUN_MAIN", "WERKZEUG_RUN_MAIN")
_started = time.monotonic()


def seconds_since_start() -> float:
    """Return the seconds since this process has loaded this package, or was forked."""
    return time.monotonic() - _started


def is_under_runserver() -> bool:
    """Return True in a process that the reloader of `runserver` has started."""
    return any(os.environ.get(name) == "true" for name in _RUNSERVER_VARIABLES)


def runs_runserver() -> bool:
    """Return True for Django's `runserver` with its reloader, also in the reloader itself."""
    return sys.argv[1:2] == ["runserver"] and "--noreload" not in sys.argv


def _restart() -> None:
    global _started
    _started = time.monotonic()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_restart)
