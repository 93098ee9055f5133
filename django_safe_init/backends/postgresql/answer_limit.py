"""Limit the wait for an answer of the server. Needs no driver."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

#: The longest wait for one answer, in seconds. It exceeds the `statement_timeout` of all queries
#: that are not a leader's, so that the server's own error arrives first.
ANSWER_SECONDS = 15.0
#: The time in which a process that was stopped can read an answer that has arrived.
_GRACE_SECONDS = 0.2


@contextmanager
def limit_answer(
    connection: Callable[[], Any], error: Callable[[str], Exception], seconds: float
) -> Iterator[None]:
    """End the driver's connection if the block takes longer, and raise `error(text)` then.

    `connection` returns the connection, or None before it exists: `connect_timeout` limits the
    attempt. The server's own time-outs do not help: a pooler lets a client log in, and accepts its
    statements, before it has a session of the server for it. Only another thread can limit a wait
    in the driver.
    """
    done, late, guard = threading.Event(), threading.Event(), threading.Lock()

    def watch() -> None:
        while not (done.wait(seconds) or done.wait(_GRACE_SECONDS)):
            with guard:
                if not done.is_set() and _shut_down(connection()):
                    late.set()
                    return

    try:
        threading.Thread(target=watch, daemon=True).start()
        yield
    except Exception as exc:
        with guard:  # the end of the connection is seen before it is noted
            is_late = late.is_set()
        if not is_late:
            raise
        raise error(f"no answer for {seconds:g} s") from exc
    finally:
        with guard:
            done.set()


def _shut_down(raw: Any) -> bool:
    """Let the thread that waits for the connection's socket see its end; return True if it does."""
    if raw is None:
        return False
    try:
        number = raw.fileno()
        with socket.socket(fileno=os.dup(number)) as duplicate:
            raw.fileno()  # an error if it was closed: another socket may have its number
            duplicate.shutdown(socket.SHUT_RDWR)
    except Exception:  # noqa: BLE001  (each driver has its own error for a closed connection)
        return False
    return True
