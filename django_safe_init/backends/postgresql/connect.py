"""Open sessions to the server: build the wrapper, wait for a connection."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import psycopg
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.utils import load_backend

from django_safe_init.backends.postgresql.errors import (
    is_busy,
    is_final,
)
from django_safe_init.backends.postgresql.session import Session
from django_safe_init.conf import Settings
from django_safe_init.core.cancellation import sleep
from django_safe_init.core.deadline import Deadline
from django_safe_init.core.text import one_line
from django_safe_init.exceptions import (
    ConfigurationError,
    DatabaseUnreachable,
    LoginRefused,
    WaitTimeout,
)

logger = logging.getLogger("django_safe_init")

#: The client's side of noticing a dead network: an error after 5 s instead of two hours.
KEEPALIVES = {
    "keepalives": 1,
    "keepalives_idle": 2,
    "keepalives_interval": 1,
    "keepalives_count": 3,
}


def create_direct_wrapper(
    alias: str,
    direct: Mapping[str, Any] | None = None,
    connect_timeout: float | None = None,
) -> BaseDatabaseWrapper:
    """A new, unpooled Django wrapper of the alias, changed by the settings in `direct`.

    The settings that other code sees are not touched. `connect_timeout`, in seconds, is for who
    lets the wrapper connect; a `Session` has its own.
    """
    values = {**connections.settings[alias], **(direct or {})}
    options = {**KEEPALIVES, **values["OPTIONS"]}
    options.pop("pool", None)
    if connect_timeout is not None:
        options["connect_timeout"] = max(1, round(connect_timeout))
    values["OPTIONS"] = options
    wrapper: BaseDatabaseWrapper = load_backend(values["ENGINE"]).DatabaseWrapper(
        values, alias
    )
    return wrapper


def retry_when_busy(
    wrapper: BaseDatabaseWrapper, seconds: float
) -> BaseDatabaseWrapper:
    """The wrapper, which from now on waits for a connection while the server is full.

    A leader that got no connection for its work would fail the whole fleet.
    """
    connect_once = wrapper.get_new_connection

    def get_new_connection(params: dict[str, Any]) -> Any:
        patience = Deadline(seconds)
        while True:
            try:
                return connect_once(params)
            except psycopg.OperationalError as exc:
                if patience.passed() or not is_busy(exc):
                    raise
                sleep(random.uniform(0.05, 0.5))

    wrapper.get_new_connection = get_new_connection  # type: ignore[method-assign, assignment]
    return wrapper


def connect(
    wrapper: BaseDatabaseWrapper,
    settings: Settings,
    deadline: Deadline,
    name: str,
    report: Callable[[str], None] = logger.info,
) -> Session:
    """A session, as soon as the server gives one; `report` takes the reason for each wait.

    Exponential backoff with jitter for a server that does not answer, flat jitter for one that
    is full or starting. Raises `DatabaseUnreachable` (`LoginRefused` at once), or `WaitTimeout`
    for a full server.
    """
    patience = Deadline(settings.wait_timeout)
    pauses = _backoff(settings)
    told = ""
    while True:
        try:
            return Session(wrapper, name, deadline.clip(settings.connect_timeout))
        except psycopg.OperationalError as exc:
            pause = _pause_before_retry(wrapper, exc, pauses, patience, deadline)
            line = f"waiting for the server: {one_line(exc)}"
            if line != told:
                report(line)
                told = line
            sleep(deadline.clip(pause))
        except (psycopg.ProgrammingError, ImproperlyConfigured) as exc:
            raise ConfigurationError(
                f"DATABASES[{wrapper.alias!r}] cannot be used: {one_line(exc)}."
            ) from exc


def _backoff(settings: Settings) -> Iterator[float]:
    for attempt in range(settings.connect_attempts - 1):
        yield min(0.5 * 2**attempt, settings.connect_max_wait) * random.uniform(
            0.75, 1.0
        )


def _pause_before_retry(
    wrapper: BaseDatabaseWrapper,
    error: psycopg.OperationalError,
    pauses: Iterator[float],
    patience: Deadline,
    deadline: Deadline,
) -> float:
    """How many seconds to wait before the next attempt; raises if there should be none."""
    reason = one_line(error)
    if is_final(reason):
        raise LoginRefused(
            f"The server of the database {wrapper.alias!r} refuses us: {reason}. "
            "Correct USER, PASSWORD or the server's access rules; trying again will not help."
        ) from error
    if is_busy(error):
        if patience.passed() or deadline.passed():
            raise WaitTimeout(
                f"The server of the database {wrapper.alias!r} had no connection for us "
                f"in time: {reason}. Raise max_connections, or start fewer replicas at once."
            ) from error
        pause: float | None = random.uniform(0.1, 2.0)
    else:
        pause = None if deadline.passed() else next(pauses, None)
    if pause is None:
        raise DatabaseUnreachable(
            f"The database {wrapper.alias!r} cannot be reached: {reason}. "
            "Check HOST and PORT, and that the server is running."
        ) from error
    return pause
