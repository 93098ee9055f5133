"""Whether this process was told to end, which a server that initializes has to know in time.

A worker that ends because its server replaces it leaves its child to go on; one that was told to
end ends its child first. Some servers end by the signal itself, so that nothing is called at
their exit: hence a handler before theirs, which is called afterwards as if nothing had been.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

#: What servers are told to end with: TERM by all, INT by a person, QUIT by gunicorn. Windows does
#: not know the last.
SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGTERM", "SIGINT", "SIGQUIT")
    if hasattr(signal, name)
)


class Termination:
    """The signals that tell a process to end."""

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self.forget()

    def forget(self) -> None:
        """In a forked process: what was told is not about this one."""
        #: Whether one of the signals has come.
        self.told = False
        #: Whether this process would know.
        self.heeded = False
        #: What is to be done before the server's own handler.
        self.first: Callable[[], None] | None = None

    def heed(self) -> None:
        """Come before the handlers that there are now; may be called again when they change.

        Python allows that in the main thread alone: elsewhere nothing happens.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        for number in SIGNALS:
            handler = signal.getsignal(number)
            if handler not in (self._handle, signal.SIG_IGN, None):
                self._before[number] = handler
                signal.signal(number, self._handle)
        self.heeded = True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.told = True
        if self.first is not None:
            self.first()
        before = self._before[number]
        if callable(before):
            before(number, frame)
        else:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)


#: That of this process.
termination = Termination()
