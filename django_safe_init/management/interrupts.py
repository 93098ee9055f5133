"""Signals, for commands only: the library installs no handler."""

from __future__ import annotations

import contextlib
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
    """Raises on a signal; not again while the process is cleaning up after the last one.

    Later it does: a migration that catches everything may have swallowed the first.
    """

    def __init__(self) -> None:
        self._last = time.monotonic() - _CLEANING_SECONDS

    def __call__(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if now - self._last >= _CLEANING_SECONDS:
            self._last = now
            raise Interrupted(number)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Raise `Interrupted` on SIGTERM and SIGINT: also as PID 1, which has no default for them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = _Handler()
    previous = {number: signal.signal(number, handler) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)
