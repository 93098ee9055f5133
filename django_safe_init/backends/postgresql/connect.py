"""Open sessions to the server."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import psycopg
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.utils import load_backend

from django_safe_init.backends.postgresql import answer_limit
from django_safe_init.backends.postgresql.errors import (
    has_no_primary,
    how_to_get_connections,
    is_busy,
    is_final,
    is_unusable,
)
from django_safe_init.backends.postgresql.project_connection import (
    copy_settings,
    hide_pools,
)
from django_safe_init.backends.postgresql.session import Session
from django_safe_init.conf import Settings
from django_safe_init.core.cancellation import sleep
from django_safe_init.core.deadline import Deadline, connect_pauses
from django_safe_init.core.text import one_line
from django_safe_init.exceptions import (
    ConfigurationError,
    DatabaseUnreachable,
    LoginRefused,
    ReadOnlyServer,
    WaitTimeout,
)

logger = logging.getLogger("django_safe_init")

#: Let the client notice a dead network after 5 s, instead of two hours.
KEEPALIVES = {
    "keepalives": 1,
    "keepalives_idle": 2,
    "keepalives_interval": 1,
    "keepalives_count": 3,
}


#: The seconds for an answer after the deadline, which says for whom the process has waited.
_LAST_ANSWER_SECONDS = 2.0


def create_direct_wrapper(
    alias: str,
    direct: Mapping[str, Any] | None = None,
    connect_timeout: float | None = None,
) -> BaseDatabaseWrapper:
    """Return a new, unpooled Django wrapper of the alias, with the settings in `direct`.

    The settings of other code stay unchanged. `connect_timeout`, in seconds, applies only if
    the wrapper itself connects, because a `Session` has its own timeout.
    """
    values = copy_settings({**connections.settings[alias], **(direct or {})})
    options = {**KEEPALIVES, **values["OPTIONS"]}
    options.pop("pool", None)
    if connect_timeout is not None:
        options["connect_timeout"] = max(1, round(connect_timeout))
    values["OPTIONS"] = options
    wrapper: BaseDatabaseWrapper = load_backend(values["ENGINE"]).DatabaseWrapper(
        values, alias
    )
    hide_pools(wrapper)
    return wrapper


def retry_when_busy(
    wrapper: BaseDatabaseWrapper,
    patience: Callable[[], float],
    is_full: Callable[[], bool] = lambda: False,
    on_failure: Callable[[], None] = lambda: None,
) -> BaseDatabaseWrapper:
    """Make the wrapper retry while the server is full, and return the wrapper.

    `patience` returns the limit in seconds. A leader that gets no connection would fail the run
    for all replicas. `is_full` is called after each failure. It returns True if the server is
    full, and raises if waiting is useless. `on_failure` is called before any other error of an
    attempt is raised.
    """
    connect_once = wrapper.get_new_connection

    def get_new_connection(params: dict[str, Any]) -> Any:
        limit = Deadline(patience())
        while True:
            try:
                return connect_once(params)
            except psycopg.OperationalError as exc:
                if not (is_full() or is_busy(exc)):
                    on_failure()
                    raise
                if limit.passed():
                    raise
                sleep(random.uniform(0.05, 0.5))

    # Django has no hook around connecting, and the type of a method cannot be assigned.
    wrapper.get_new_connection = get_new_connection  # type: ignore[method-assign, assignment]
    return wrapper


def answer_patience(deadline: Deadline) -> Callable[[], float]:
    """Return the patience of a process that waits, with a server that does not answer.

    A status has a deadline of 0 seconds, so that it does not connect again. Its answers may take
    the full time.
    """
    if not deadline.seconds:
        return lambda: answer_limit.ANSWER_SECONDS
    return lambda: max(_LAST_ANSWER_SECONDS, deadline.clip(answer_limit.ANSWER_SECONDS))


def connect(
    wrapper: BaseDatabaseWrapper,
    settings: Settings,
    deadline: Deadline,
    name: str,
    report: Callable[[str], None] = logger.info,
) -> Session:
    """Return a session as soon as the server accepts one; `report` gets the reason for a wait.

    The backoff is exponential, with jitter, for a server that does not answer. It is random for
    a server that is full or starting. Raises `LoginRefused` and `ConfigurationError` at once,
    `DatabaseUnreachable` after the last attempt, and `WaitTimeout` for a full server.
    """
    limit = Deadline(settings.wait_timeout)
    pauses = connect_pauses(settings)
    reported = ""
    while True:
        try:
            seconds = deadline.clip(settings.connect_timeout)
            return Session(wrapper, name, seconds, answer_patience(deadline))
        except psycopg.OperationalError as exc:
            pause = _pause_before_retry(wrapper, exc, pauses, limit, deadline)
            line = f"waiting for the server: {one_line(exc)}"
            if line != reported:
                report(line)
                reported = line
            sleep(deadline.clip(pause))


def _pause_before_retry(
    wrapper: BaseDatabaseWrapper,
    error: psycopg.OperationalError,
    pauses: Iterator[float],
    limit: Deadline,
    deadline: Deadline,
) -> float:
    """Return the seconds to wait before the next attempt, or raise the final error."""
    reason = one_line(error)
    if is_unusable(reason):
        raise ConfigurationError(
            f"The settings of the database {wrapper.alias!r} cannot be used: {reason}. "
            "Correct HOST, PORT and OPTIONS. Let HOST and PORT be lists of the same length; an "
            "entry of DIRECT with a HOST needs its own PORT."
        ) from error
    if is_final(reason):
        raise LoginRefused(
            f"The server of the database {wrapper.alias!r} refuses us: {reason}. "
            "Correct USER, PASSWORD or the server's access rules; trying again will not help."
        ) from error
    if is_busy(error):
        if limit.passed() or deadline.passed():
            raise WaitTimeout(
                f"The server of the database {wrapper.alias!r} had no connection for us "
                f"in time: {reason}. {how_to_get_connections(reason)}, "
                "or start fewer replicas at once."
            ) from error
        pause: float | None = random.uniform(0.1, 2.0)
    else:
        pause = None if deadline.passed() else next(pauses, None)
    if pause is None and has_no_primary(reason):
        raise ReadOnlyServer(
            f"No server of the database {wrapper.alias!r} accepts writes: {reason}. "
            "Let HOST name the primary, too.",
            is_final=True,
        ) from error
    if pause is None:
        raise DatabaseUnreachable(
            f"The database {wrapper.alias!r} cannot be reached: {reason}. "
            "Check HOST and PORT, and that the server is running."
        ) from error
    return pause
