"""Hold the key of a tenant's schema outside of a run, while the tenant is created."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

from django.db.backends.base.base import BaseDatabaseWrapper

from django_safe_init.backends.base.context import Context
from django_safe_init.backends.postgresql.connect import connect, create_direct_wrapper
from django_safe_init.backends.postgresql.lock_holders import key_holders, name_all
from django_safe_init.backends.postgresql.lock_keys import schema_key
from django_safe_init.backends.postgresql.project_connection import plain_rows
from django_safe_init.core.cancellation import sleep
from django_safe_init.core.deadline import Deadline
from django_safe_init.exceptions import WaitTimeout

_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.02, 0.5


@contextmanager
def schema_guard(
    connection: BaseDatabaseWrapper, schema: str, context: Context
) -> Iterator[None]:
    """Hold the key of the schema in the block, and wait for it before.

    In a transaction the key belongs to the transaction, and is held until its end. Otherwise a
    direct session of its own holds it: a pooler may give the connection's session to others.
    The wait is a poll, because a query that waits keeps a snapshot, and with it every concurrent
    index of the database. Raises `WaitTimeout`.
    """
    key = schema_key(schema)
    patience = Deadline(context.settings.wait_timeout)
    if connection.in_atomic_block:
        statement = f"SELECT pg_catalog.pg_try_advisory_xact_lock({key})"
        _wait(lambda: bool(plain_rows(connection, statement)[0][0]), patience, schema)
        yield
        return
    wrapper = create_direct_wrapper(context.alias, context.direct)
    session = connect(
        wrapper, context.settings, context.deadline, "safe_init tenant", context.report
    )
    with closing(session):
        session.patience = None
        session.apply_session_settings()
        statement = f"SELECT pg_try_advisory_lock({key})"
        _wait(
            lambda: bool(session.rows(statement)[0][0]),
            patience,
            schema,
            lambda: name_all(key_holders(session.rows, key)),
        )
        yield


def _wait(
    acquire: Callable[[], bool],
    patience: Deadline,
    schema: str,
    holders: Callable[[], str] = lambda: "another session",
) -> None:
    pause = _SHORTEST_PAUSE
    while not acquire():
        if patience.passed():
            raise WaitTimeout(
                f"The schema {schema!r} is being migrated by {holders()}. Start again later."
            )
        sleep(patience.clip(random.uniform(pause / 2, pause)))
        pause = min(2 * pause, _LONGEST_PAUSE)
