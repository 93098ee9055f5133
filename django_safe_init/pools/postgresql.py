"""The limits of a slow pool on PostgreSQL, which must not reach anybody else's sessions.

No start-up options: poolers refuse them. On a session of our own they are set once, and hold for
whatever is done there. Behind a pooler the session is other clients' too: there each
transaction begins with them, and they end with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import psycopg
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg import sql
from psycopg.pq import TransactionStatus

from django_safe_init.pools.config import SlowPool

Raw = psycopg.Connection[Any]

#: Of the connections that were looked at, whether the server's session is theirs alone. A psycopg
#: pool hands them out again and again.
_owned: WeakKeyDictionary[Raw, bool] = WeakKeyDictionary()


def limit(connection: BaseDatabaseWrapper, limits: SlowPool) -> None:
    """Let the limits hold for all that is done on this new connection."""
    values = _values(limits)
    if not values:
        return
    raw: Raw = connection.connection
    try:
        if raw not in _owned:
            _owned[raw] = _set_if_own(raw, values)
    except BaseException:
        # Django would go on with it, without limits.
        raw.close()
        connection.close()
        raise
    wrappers = connection.execute_wrappers
    if not _owned[raw] and not any(
        isinstance(each, _TransactionPreamble) for each in wrappers
    ):
        wrappers.insert(
            1, _TransactionPreamble(values)
        )  # behind the guard, which lets no write begin


def _values(limits: SlowPool) -> dict[str, str]:
    """By the names of a session's settings; those of a transaction have no `default_`."""
    values = {}
    if limits.statement_timeout is not None:
        milliseconds = max(1, int(limits.statement_timeout * 1000))  # 0 is "never"
        values["statement_timeout"] = str(milliseconds)
    if limits.read_only:
        values["default_transaction_read_only"] = "on"
    return values


def _set_if_own(raw: Raw, values: dict[str, str]) -> bool:
    """Set them on the session, unless a pooler answered the handshake. Whether they are set."""
    calls = [
        sql.SQL("set_config({}, {}, false)").format(name, value)
        for name, value in values.items()
    ]
    query = sql.SQL("SELECT {} WHERE pg_backend_pid() = {}")
    found = raw.execute(query.format(sql.SQL(", ").join(calls), raw.info.backend_pid))
    done = found.fetchone() is not None
    if not raw.autocommit:
        raw.commit()
    return done


class _TransactionPreamble:
    """An execute wrapper: lets each transaction begin with the limits."""

    def __init__(self, values: dict[str, str]) -> None:
        # Utility statements, which take no snapshot: the isolation level may be set after them.
        self._statements = sql.SQL("; ").join(
            sql.SQL("SET LOCAL {} = {}").format(
                sql.Identifier(name.removeprefix("default_")), value
            )
            for name, value in values.items()
        )

    def __call__(
        self,
        execute: Callable[..., Any],
        statement: Any,
        params: Any,
        many: bool,
        context: Any,
    ) -> Any:
        connection: BaseDatabaseWrapper = context["connection"]
        raw: Raw = connection.connection
        if raw.info.transaction_status is not TransactionStatus.IDLE:
            return execute(statement, params, many, context)
        if not raw.autocommit:
            with connection.wrap_database_errors:
                raw.execute(self._statements)
            return execute(statement, params, many, context)
        with connection.wrap_database_errors, raw.transaction():
            raw.execute(self._statements)
            return execute(statement, params, many, context)
