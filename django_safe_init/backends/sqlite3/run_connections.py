"""Make Django's connection interruptible during a run on SQLite."""

from __future__ import annotations

import threading
from typing import Any

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from django_safe_init.core.cancellation import current_token

#: The instructions of SQLite between two calls of the handler: about a millisecond.
_INSTRUCTIONS = 100_000


class RunConnection:
    """Django's connection during a run, whose statement a cancellation interrupts.

    A statement runs inside this process, and Python would call no signal handler before its
    end. SQLite reports the interruption as an ordinary error, which a migration may catch. The
    cancellation is therefore raised instead of that error, and before any further statement.
    """

    def __init__(self, alias: str) -> None:
        self.alias = alias
        self._thread = threading.current_thread()

    def __enter__(self) -> BaseDatabaseWrapper:
        self._previous = connections[self.alias]
        self._wrapper = wrapper = connections.create_connection(self.alias)
        connections[self.alias] = wrapper
        self._token = current_token()
        if self._token is not None:
            self._token.register(wrapper, lambda raw: raw.interrupt())
        connection_created.connect(self._handle_signals)
        wrapper.ensure_connection()
        return wrapper

    def _handle_signals(self, connection: BaseDatabaseWrapper, **kwargs: Any) -> None:
        if (
            connection.alias == self.alias
            and self._thread is threading.current_thread()
        ):
            connection.connection.set_progress_handler(
                _run_signal_handlers, _INSTRUCTIONS
            )

    def __exit__(self, *exc_info: object) -> None:
        connection_created.disconnect(self._handle_signals)
        if self._token is not None:
            self._token.unregister(self.alias)
        self._wrapper.close()
        connections[self.alias] = self._previous


def _run_signal_handlers() -> int:
    """Give Python the occasion to call signal handlers; one that raises ends the statement."""
    return 0
