"""Make Django's connection interruptible during a run on SQLite."""

from __future__ import annotations

import threading
from contextlib import ExitStack
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
        with ExitStack() as undo:
            previous = connections[self.alias]
            wrapper = connections.create_connection(self.alias)
            undo.callback(connections.__setitem__, self.alias, previous)
            undo.callback(wrapper.close)
            connections[self.alias] = wrapper
            token = current_token()
            if token is not None:
                undo.callback(token.unregister, self.alias)
                token.register(wrapper, lambda raw: raw.interrupt())
            undo.callback(connection_created.disconnect, self._handle_signals)
            connection_created.connect(self._handle_signals)
            wrapper.ensure_connection()
            self._undo = undo.pop_all()
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
        self._undo.close()


def _run_signal_handlers() -> int:
    """Give Python the occasion to call signal handlers; one that raises ends the statement."""
    return 0
