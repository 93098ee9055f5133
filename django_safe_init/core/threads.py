"""The thread that runs one of several concurrent initializations of a process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from typing import Generic, TypeVar

from django.db import connections

from django_safe_init.core.cancellation import CancellationToken

T = TypeVar("T")


class InitializationThread(threading.Thread, Generic[T]):
    """A daemon thread that calls one function and keeps its result in `future`.

    The function sees the context variables of the code that creates the thread, with `token`
    active. Its Django connections are closed before `future` resolves. The thread belongs to no
    other thread's run, and the process exits without waiting for it.
    """

    def __init__(self, call: Callable[[], T], token: CancellationToken) -> None:
        super().__init__(name="safe_init", daemon=True)
        self.future: Future[T] = Future()
        self._call = call
        self._token = token
        self._context = copy_context()

    def run(self) -> None:
        """Call the function in a copy of the creating thread's context."""
        self._context.run(self._run_and_resolve)

    def _run_and_resolve(self) -> None:
        try:
            value = self._call_and_close()
        except BaseException as exc:  # noqa: BLE001  (`future.result()` raises it)
            self.future.set_exception(exc)
        else:
            self.future.set_result(value)

    def _call_and_close(self) -> T:
        try:
            with self._token.active():
                return self._call()
        finally:
            connections.close_all()
