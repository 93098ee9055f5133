"""Signals, for commands only: the library installs no handler."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_CLEANING_SECONDS = 2.0


class Interrupted(KeyboardInterrupt):
    """A signal asked this process to end.

    A `KeyboardInterrupt`, because on that psycopg cancels the statement that is running in
    the server; on other exceptions it would go on there.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.exit_code = 128 + number


class _Handler:
    """Raises on a signal; not again while the process is cleaning up after the last one."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._last = -math.inf
        self._process = os.getpid()

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            # A child that a migration has forked ends as it would have done without us.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        now = time.monotonic()
        if now - self._last >= _CLEANING_SECONDS:
            self._last = now
            self.signal = number
            raise Interrupted(number)


_handler: _Handler | None = None


def raise_swallowed() -> None:
    """Raise `Interrupted` again, if something that catches everything has swallowed it."""
    if _handler is not None and _handler.signal is not None:
        raise Interrupted(_handler.signal)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Raise `Interrupted` on SIGTERM and SIGINT: also as PID 1, which has no default for them."""
    global _handler
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    outer, _handler = _handler, _Handler()
    previous = {number: signal.signal(number, _handler) for number in _SIGNALS}
    try:
        yield
    finally:
        _handler = outer
        for number, before in previous.items():
            signal.signal(number, before)
