"""Tell how long this process has run."""

from __future__ import annotations

import os
import time

_started = time.monotonic()


def seconds_since_start() -> float:
    """Return the seconds since this process has loaded this package, or was forked."""
    return time.monotonic() - _started


def _restart() -> None:
    global _started
    _started = time.monotonic()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_restart)
