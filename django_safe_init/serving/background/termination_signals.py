"""The signals that terminate a web process, noticed before its server handles them.

A worker that exits because its server replaces it leaves its child process running. A worker
that was told to terminate ends its child first. Some servers exit from within the signal, so no
`atexit` function runs: therefore a handler of this module runs before the server's own handler.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

#: SIGTERM from process managers, SIGINT from a terminal, SIGQUIT for gunicorn. Windows, where
#: this module is imported too, has no SIGQUIT.
SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGTERM", "SIGINT", "SIGQUIT")
    if hasattr(signal, name)
)


class Termination:
    """The record of termination signals in this process."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the signals and handlers of the parent, in a forked process."""
        #: True once one of the signals was received.
        self.received = False
        #: True if this process would notice the signals.
        self.installed = False
        #: Called once, before the server's own handler.
        self.on_first_signal: Callable[[], None] | None = None

    def install_handlers(self) -> None:
        """Chain a handler before each current one. Call again after they may have changed.

        Python allows this only in the main thread. In other threads nothing happens.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        for number in SIGNALS:
            handler = signal.getsignal(number)
            if not (
                isinstance(handler, ChainedSignalHandler)
                or handler in (signal.SIG_IGN, None)
            ):
                signal.signal(number, ChainedSignalHandler(self, handler))
        self.installed = True

    def on_signal(self) -> None:
        """Note a signal, and call `on_first_signal` if it is the first one."""
        is_first, self.received = not self.received, True
        if self.on_first_signal is not None and is_first:
            self.on_first_signal()


class ChainedSignalHandler:
    """A signal handler that calls `next_handler`, which may itself lead to an earlier chain."""

    def __init__(self, termination: Termination, next_handler: Any) -> None:
        self._termination = termination
        self._next_handler = next_handler

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self._termination.on_signal()
        if callable(self._next_handler):
            self._next_handler(number, frame)
        else:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)


#: The signals of this process.
termination = Termination()
