"""Limit the wait for an answer of the server on Django's own connection. Needs no driver."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

#: The longest wait for one answer, in seconds. It exceeds the `statement_timeout` of all queries
#: that are not a leader's, so that the server's own error arrives first.
ANSWER_SECONDS = 15.0


@contextmanager
def limit_answer(
    wrapper: BaseDatabaseWrapper, error: Callable[[str], Exception], seconds: float
) -> Iterator[None]:
    """End the wrapper's connection if the block takes longer, and raise `error(text)` then.

    The server's own time-outs do not help: a pooler lets a client log in, and accepts its
    statements, before it has a session of the server for it. Only another thread can limit a
    wait in the driver.
    """
    late = threading.Event()

    def hang_up() -> None:
        late.set()
        _shut_down(wrapper.connection)

    timer = threading.Timer(seconds, hang_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    except Exception as exc:
        if not late.is_set():
            raise
        raise error(f"no answer for {seconds:g} s") from exc
    finally:
        timer.cancel()


def _shut_down(raw: Any) -> None:
    """Let the thread that waits for the connection's socket see its end."""
    # A driver's connection that is closed, or not open yet, has no descriptor.
    with suppress(Exception), socket.socket(fileno=os.dup(raw.fileno())) as duplicate:
        duplicate.shutdown(socket.SHUT_RDWR)
