"""Repeat work whose database server was restarted, replaced or made read-only."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from django_safe_init.conf import Settings
from django_safe_init.core.cancellation import sleep
from django_safe_init.core.deadline import Deadline, connect_pauses
from django_safe_init.core.records import ConnectionEnded
from django_safe_init.core.text import one_line
from django_safe_init.exceptions import LockLost, ReadOnlyServer

T = TypeVar("T")


def repeat(
    attempt: Callable[[], T],
    settings: Settings,
    deadline: Deadline,
    report: Callable[[str], None],
    loss: str,
) -> T:
    """Return the result of `attempt`, which is called again after a loss or a switchover.

    After a lost connection it is called again at most `RESTARTS` times. While the server is
    read-only, which a switchover makes it for seconds, it is called again after the pauses of
    `CONNECT_ATTEMPTS`. `loss` names in the error what was lost. Raises `LockLost` and
    `ReadOnlyServer` when the limits are reached, and whatever else `attempt` raises.
    """
    restarts = 0
    pauses = connect_pauses(settings)
    while True:
        try:
            return attempt()
        except ReadOnlyServer as exc:
            is_last = exc.is_final or deadline.passed()
            pause = None if is_last else next(pauses, None)
            if pause is None:
                raise
            report(f"waiting for the primary: {one_line(exc)}")
        except (LockLost, ConnectionEnded) as exc:
            restarts += 1
            text = one_line(exc)
            if restarts > settings.restarts:
                raise LockLost(
                    f"Lost {loss} {restarts} times, the last time: {text}"
                ) from exc
            pauses = connect_pauses(settings)
            # The first loss is one session's end; a second one is a server that is not up yet.
            pause = 0.0 if restarts == 1 else next(pauses, 0.0)
            report(f"{text} Starting over.")
        sleep(deadline.clip(pause))
