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

#: What servers are told to end with: TERM by all, INT by a person, QUIT by gunicorn. Windows, where
#: this is imported too, has no QUIT.
SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGTERM", "SIGINT", "SIGQUIT")
    if hasattr(signal, name)
)


class Termination:
    """The signals that tell a process to end."""

    def __init__(self) -> None:
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
            if not (
                isinstance(handler, ChainedSignalHandler)
                or handler in (signal.SIG_IGN, None)
            ):
                signal.signal(number, ChainedSignalHandler(self, handler))
        self.heeded = True

    def tell(self) -> None:
        """A signal has come; what is to be done first is done once."""
        told, self.told = self.told, True
        if self.first is not None and not told:
            self.first()


class ChainedSignalHandler:
    """Comes before one other handler, which may lead to one that we have come before earlier."""

    def __init__(self, termination: Termination, before: Any) -> None:
        self._termination = termination
        self._before = before

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self._termination.tell()
        if callable(self._before):
            self._before(number, frame)
        else:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)


#: That of this process.
termination = Termination()
