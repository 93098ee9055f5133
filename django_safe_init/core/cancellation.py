"""Ending work from outside its thread: by a signal, or because its task was cancelled.

Python cannot interrupt a thread. So whoever wants the work to end says so here and cancels the
statements that run; the thread finds out in its waits, before each statement of a run and
at each migration's boundary.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from weakref import WeakKeyDictionary

from django.db.backends.base.base import BaseDatabaseWrapper

#: How long a thread that waits may take to find out.
_SECONDS = 0.1


#: Cancels what a driver's connection does just now, if it does anything.
Cancel = Callable[[Any], None]


class CancellationToken:
    """Tells work to end, on whatever threads it is, and can wait until it has ended.

    `thread` needs no telling: a signal handler raises there.
    """

    def __init__(self, thread: threading.Thread | None = None) -> None:
        self.thread = thread
        self._reason: Callable[[], KeyboardInterrupt] | None = None
        self._guarded: WeakKeyDictionary[BaseDatabaseWrapper, Cancel] = (
            WeakKeyDictionary()
        )
        self._lock = threading.Lock()

    @contextmanager
    def here(self) -> Iterator[None]:
        """While entered, `check`, `sleep` and `parts` obey this interruption."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def tell(self, reason: Callable[[], KeyboardInterrupt]) -> None:
        """From now on the work ends with `reason()`. Does nothing else: signal handlers call it."""
        self._reason = reason

    def check(self) -> None:
        """Raise the reason, if there is one."""
        if self._reason is not None:
            raise self._reason()

    def guard(self, wrapper: BaseDatabaseWrapper, cancel: Cancel) -> None:
        """Let the wrapper's connection begin no statement once told, and `end` cancel the last."""
        wrapper.execute_wrappers.append(self._execute)
        with self._lock:
            self._guarded[wrapper] = cancel

    def release(self, alias: str) -> None:
        """The work on that alias has ended: a thread that has kept its connection may go on."""
        with self._lock:
            for wrapper in [each for each in self._guarded if each.alias == alias]:
                del self._guarded[wrapper]

    def _execute(self, execute: Callable[..., Any], *args: Any) -> Any:
        if args[-1]["connection"] not in self._guarded:
            return execute(*args)
        self.check()
        with raise_cancellation(self.check):
            return execute(*args)

    def end(self, threads: Iterable[threading.Thread]) -> None:
        """Cancel what the guarded connections do until the threads have ended."""
        for thread in threads:
            while thread.is_alive():
                self._cancel_statements()
                thread.join(_SECONDS)

    def _cancel_statements(self) -> None:
        # Again and again: a cancellation that comes before its statement is lost.
        with self._lock:
            guarded = list(self._guarded.items())
        for wrapper, cancel in guarded:
            if wrapper.connection is not None:
                cancel(wrapper.connection)


_current: ContextVar[CancellationToken | None] = ContextVar("_current", default=None)


def current() -> CancellationToken | None:
    """What can interrupt the work of this context."""
    return _current.get()


def token_of_other_thread() -> CancellationToken | None:
    """The same, if this thread has to look for it."""
    interruption = _current.get()
    if interruption is None or interruption.thread is threading.current_thread():
        return None
    return interruption


def check() -> None:
    """Raise what this work is to end with, if it is to end.

    At a boundary also in the thread where a signal was raised: something that catches
    everything may have swallowed it.
    """
    interruption = _current.get()
    if interruption is not None:
        interruption.check()


@contextmanager
def raise_cancellation(look: Callable[[], None] = check) -> Iterator[None]:
    """Take an error inside for the interruption, if there is one: it may be its effect."""
    try:
        yield
    except Exception:
        look()
        raise


@contextmanager
def shield() -> Iterator[None]:
    """For cleaning up after an interruption: nothing inside looks for it."""
    token = _current.set(None)
    try:
        yield
    finally:
        _current.reset(token)


def slices(seconds: float) -> Iterator[float]:
    """The time to wait, in parts so short that the thread finds out soon."""
    interruption = token_of_other_thread()
    if interruption is None:
        yield seconds
        return
    end = time.monotonic() + seconds
    while True:
        interruption.check()
        left = end - time.monotonic()
        if left <= 0:
            return
        yield min(left, _SECONDS)


def sleep(seconds: float) -> None:
    """Sleep, until the time is over or the work is to end."""
    for part in slices(seconds):
        time.sleep(part)
