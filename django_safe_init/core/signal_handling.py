"""Signals, for commands only: the library installs no handler."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from types import FrameType

from django_safe_init.core.cancellation import CancellationToken, current_token

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


class SignalHandler:
    """Raises on a signal; not again while the process is cleaning up after the last one."""

    def __init__(self, interruption: CancellationToken) -> None:
        self._interruption = interruption
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
            self._interruption.request_cancel(partial(Interrupted, number))
            raise Interrupted(number)


@contextlib.contextmanager
def interruptible() -> Iterator[CancellationToken]:
    """Raise `Interrupted` on SIGTERM and SIGINT: also as PID 1, which has no default for them.

    Work on other threads is told by the interruption that is given.
    """
    if threading.current_thread() is not threading.main_thread():
        yield current_token() or CancellationToken()
        return
    interruption = CancellationToken(threading.current_thread())
    handler = SignalHandler(interruption)
    previous = {number: signal.signal(number, handler) for number in _SIGNALS}
    try:
        with interruption.active():
            yield interruption
    finally:
        for number, before in previous.items():
            signal.signal(number, before)
