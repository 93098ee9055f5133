"""Threads of our own: several initializations side by side in one process."""

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
    """Calls a function with Django connections of its own, which are closed at its end.

    It sees the context variables of whoever made it. It belongs to no other thread's run.
    A process that ends does not wait for it.
    """

    def __init__(self, call: Callable[[], T], interruption: CancellationToken) -> None:
        super().__init__(name="safe_init", daemon=True)
        #: What the function returned or raised; its connections are closed by then.
        self.outcome: Future[T] = Future()
        self._call = call
        self._interruption = interruption
        self._context = copy_context()

    def run(self) -> None:
        """Called in the thread."""
        self._context.run(self._settle)

    def _settle(self) -> None:
        try:
            value = self._call_here()
        except BaseException as exc:  # noqa: BLE001  (raised by whoever asks for the outcome)
            self.outcome.set_exception(exc)
        else:
            self.outcome.set_result(value)

    def _call_here(self) -> T:
        try:
            with self._interruption.here():
                return self._call()
        finally:
            connections.close_all()
