"""Signal handlers that interrupt a command.

Only commands and `contrib.gunicorn` install them. The library itself installs no handler.
"""

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
#: Time that the process has for its cleanup, in which further signals are ignored.
_CLEANUP_SECONDS = 2.0


class Interrupted(KeyboardInterrupt):
    """A signal asked this process to stop.

    It is a `KeyboardInterrupt` because psycopg then cancels the running statement. After any
    other exception the statement would continue in PostgreSQL.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.exit_code = 128 + number


class SignalHandler:
    """Handler that raises `Interrupted`, unless the last signal's cleanup may still be running."""

    def __init__(self, token: CancellationToken) -> None:
        self._token = token
        self._last_signal = -math.inf
        self._pid = os.getpid()

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            # A child that a migration forked must stop as it would without this handler.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        now = time.monotonic()
        if now - self._last_signal >= _CLEANUP_SECONDS:
            self._last_signal = now
            self._token.request_cancel(partial(Interrupted, number))
            raise Interrupted(number)


@contextlib.contextmanager
def interruptible() -> Iterator[CancellationToken]:
    """Context manager that raises `Interrupted` on SIGTERM and SIGINT, also for PID 1.

    It yields the token that cancels the work of other threads. Outside the main thread, where
    Python allows no handler, it installs nothing and yields the current token.
    """
    if threading.current_thread() is not threading.main_thread():
        yield current_token() or CancellationToken()
        return
    token = CancellationToken(threading.current_thread())
    handler = SignalHandler(token)
    previous = {number: signal.signal(number, handler) for number in _SIGNALS}
    try:
        with token.active():
            yield token
    finally:
        for number, previous_handler in previous.items():
            signal.signal(number, previous_handler)
