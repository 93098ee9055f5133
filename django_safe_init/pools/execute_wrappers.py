"""What connections to a database with pools refuse, and what those of a slow pool are set to."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from django.db import DatabaseError, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from django_safe_init.conf import POOL_KEY
from django_safe_init.exceptions import ReadOnlyPool
from django_safe_init.pools.config import Pool, pool_of
from django_safe_init.pools.router import current_pool

#: How the ORM's writes begin. What else writes, the database refuses.
_WRITE = re.compile(
    r"\s*(INSERT|UPDATE|DELETE|MERGE|REPLACE|TRUNCATE|CREATE|ALTER|DROP)\b",
    re.IGNORECASE,
)
#: SQLSTATE read_only_sql_transaction.
_READ_ONLY_STATE = "25006"


def guard_connection(connection: BaseDatabaseWrapper, **kwargs: Any) -> None:
    """Receives `connection_created`: guards it if its database has pools."""
    pool = pool_of(connection.alias)
    if pool is None and not _has_pools(connection.alias):
        return
    if _guard not in connection.execute_wrappers:
        # The first place: who leaves `connection.execute_wrapper()` removes the last one.
        connection.execute_wrappers.insert(0, _guard)
    if pool is not None:
        _limit(connection, pool)


def _has_pools(alias: str) -> bool:
    entries = connections.settings.values()
    return any(
        entry[POOL_KEY].database == alias for entry in entries if POOL_KEY in entry
    )


def _limit(connection: BaseDatabaseWrapper, pool: Pool) -> None:
    if connection.vendor == "postgresql":
        from django_safe_init.pools.postgresql import limit

        limit(connection, pool.limits)
    elif connection.vendor == "sqlite" and pool.limits.read_only:
        connection.connection.execute("PRAGMA query_only = ON")


def _guard(
    execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: Any
) -> Any:
    """An execute wrapper: refuses writes where the pool is read-only."""
    pool = _read_only_pool(context["connection"].alias)
    if pool is None:
        return execute(sql, params, many, context)
    if isinstance(sql, str) and _WRITE.match(sql):
        raise _refusal(pool)
    try:
        return execute(sql, params, many, context)
    except DatabaseError as exc:
        if _is_refused(exc):
            raise _refusal(pool) from exc
        raise


def _read_only_pool(alias: str) -> Pool | None:
    """The pool that forbids to write on that alias just now: its own, or that of the block."""
    name = current_pool()
    pool = pool_of(alias) or (pool_of(f"{alias}_{name}") if name else None)
    return pool if pool is not None and pool.limits.read_only else None


def _is_refused(error: DatabaseError) -> bool:
    state = getattr(error.__cause__, "sqlstate", None)
    return state == _READ_ONLY_STATE or "readonly database" in str(error)


def _refusal(pool: Pool) -> ReadOnlyPool:
    return ReadOnlyPool(
        f"The pool {pool.name!r} of the database {pool.database!r} is read-only. Write outside "
        "using_pool(), or in an inner block: with using_pool(None)."
    )
