"""Apply the limits of a slow pool to sessions of PostgreSQL.

Poolers reject start-up options, so the limits are set with SQL. In a dedicated session they are
set once and stay. A pooler shares its sessions with other clients, so behind a pooler they are
set at the beginning of each transaction and end with it.
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

#: For each connection, True if it has a dedicated session. Cached, because a psycopg pool
#: returns the same connections again.
_has_own_session: WeakKeyDictionary[Raw, bool] = WeakKeyDictionary()


def apply_limits(connection: BaseDatabaseWrapper, limits: SlowPool) -> None:
    """Apply the limits to all statements on this new connection."""
    values = _session_values(limits)
    if not values:
        return
    raw: Raw = connection.connection
    try:
        if raw not in _has_own_session:
            _has_own_session[raw] = _set_in_own_session(raw, values)
    except BaseException:
        # Django would otherwise use the connection without limits.
        raw.close()
        connection.close()
        raise
    wrappers = connection.execute_wrappers
    if not _has_own_session[raw] and not any(
        isinstance(each, _TransactionPreamble) for each in wrappers
    ):
        # After the wrapper that refuses writes, so that a refused write begins no transaction.
        wrappers.insert(1, _TransactionPreamble(values))


def _session_values(limits: SlowPool) -> dict[str, str]:
    """Return the limits as parameters of a session.

    A parameter of a transaction has no prefix `default_`.
    """
    values = {}
    if limits.statement_timeout is not None:
        milliseconds = max(
            1, int(limits.statement_timeout * 1000)
        )  # 0 would disable it
        values["statement_timeout"] = str(milliseconds)
    if limits.read_only:
        values["default_transaction_read_only"] = "on"
    return values


def _set_in_own_session(raw: Raw, values: dict[str, str]) -> bool:
    """Set the parameters in a dedicated session; return False behind a pooler.

    A pooler reports its own process id in the handshake, not the id of a server process.
    """
    calls = [
        sql.SQL("pg_catalog.set_config({}, {}, false)").format(name, value)
        for name, value in values.items()
    ]
    query = sql.SQL(
        "SELECT {} WHERE pg_catalog.pg_backend_pid() OPERATOR(pg_catalog.=) {}"
    )
    found = raw.execute(query.format(sql.SQL(", ").join(calls), raw.info.backend_pid))
    is_set = found.fetchone() is not None
    if not raw.autocommit:
        raw.commit()
    return is_set


class _TransactionPreamble:
    """An execute wrapper that sets the limits at the beginning of each transaction."""

    def __init__(self, values: dict[str, str]) -> None:
        # SET LOCAL takes no snapshot, so the isolation level can still be set after it.
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
