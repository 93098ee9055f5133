"""Cancel work that runs on another thread: after a signal, or when its task is cancelled.

Python cannot interrupt a thread. The canceling thread therefore sets a reason on a
`CancellationToken` and cancels the running statements. The working thread checks the token while
it waits, before each statement of a run and at each migration's boundary.
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

#: The longest time, in seconds, for which a waiting thread does not check its token.
_CHECK_SECONDS = 0.1


#: Cancels the statement that a driver's connection runs, if it runs one.
Cancel = Callable[[Any], None]


class CancellationToken:
    """A request to cancel work, shared by the threads that do this work.

    `thread` does not check the token while it waits, because a signal handler raises there.
    """

    def __init__(self, thread: threading.Thread | None = None) -> None:
        self.thread = thread
        self._reason: Callable[[], KeyboardInterrupt] | None = None
        self._registered: WeakKeyDictionary[BaseDatabaseWrapper, Cancel] = (
            WeakKeyDictionary()
        )
        self._lock = threading.Lock()

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make `check`, `sleep` and `slices` obey this token inside the block."""
        reset = _current_token.set(self)
        try:
            yield
        finally:
            _current_token.reset(reset)

    def request_cancel(self, reason: Callable[[], KeyboardInterrupt]) -> None:
        """Make every later check raise `reason()`. Safe to call in a signal handler."""
        self._reason = reason

    def check(self) -> None:
        """Raise the reason if cancellation was requested."""
        if self._reason is not None:
            raise self._reason()

    def register(self, wrapper: BaseDatabaseWrapper, cancel: Cancel) -> None:
        """Check the token before each statement of the wrapper's connection.

        `cancel_and_join` calls `cancel` for the statement that is running.
        """
        wrapper.execute_wrappers.append(self._execute)
        with self._lock:
            self._registered[wrapper] = cancel

    def unregister(self, alias: str) -> None:
        """Forget the connections of the alias. A thread that kept one may continue to use it."""
        with self._lock:
            for wrapper in [each for each in self._registered if each.alias == alias]:
                del self._registered[wrapper]

    def _execute(self, execute: Callable[..., Any], *args: Any) -> Any:
        if args[-1]["connection"] not in self._registered:
            return execute(*args)
        self.check()
        with raise_cancellation(self.check):
            return execute(*args)

    def cancel_and_join(self, threads: Iterable[threading.Thread]) -> None:
        """Cancel the statements of the registered connections until the threads end."""
        for thread in threads:
            while thread.is_alive():
                self._cancel_statements()
                thread.join(_CHECK_SECONDS)

    def _cancel_statements(self) -> None:
        # Called repeatedly: a cancellation that arrives before its statement is lost.
        with self._lock:
            registered = list(self._registered.items())
        for wrapper, cancel in registered:
            if wrapper.connection is not None:
                cancel(wrapper.connection)


_current_token: ContextVar[CancellationToken | None] = ContextVar(
    "_current_token", default=None
)


def current_token() -> CancellationToken | None:
    """Return the token that is active in this context."""
    return _current_token.get()


def token_of_other_thread() -> CancellationToken | None:
    """Return the active token if this thread must check it.

    Return None on the token's own thread, where a signal handler raises.
    """
    token = _current_token.get()
    if token is None or token.thread is threading.current_thread():
        return None
    return token


def check() -> None:
    """Raise the reason of the active token if cancellation was requested.

    This includes the thread in which a signal handler has raised: code that catches every
    exception may have swallowed that one.
    """
    token = _current_token.get()
    if token is not None:
        token.check()


@contextmanager
def raise_cancellation(check_token: Callable[[], None] = check) -> Iterator[None]:
    """Raise a requested cancellation instead of an error, which it may have caused."""
    try:
        yield
    except Exception:
        check_token()
        raise


@contextmanager
def shield() -> Iterator[None]:
    """Ignore the active token inside the block, so that cleaning up can finish."""
    reset = _current_token.set(None)
    try:
        yield
    finally:
        _current_token.reset(reset)


def slices(seconds: float) -> Iterator[float]:
    """Yield waits, in seconds, that are short enough to notice a cancellation between them."""
    token = token_of_other_thread()
    if token is None:
        yield seconds
        return
    end = time.monotonic() + seconds
    while True:
        token.check()
        left = end - time.monotonic()
        if left <= 0:
            return
        yield min(left, _CHECK_SECONDS)


def sleep(seconds: float) -> None:
    """Sleep for `seconds`. Raise the token's reason if cancellation is requested."""
    for part in slices(seconds):
        time.sleep(part)
