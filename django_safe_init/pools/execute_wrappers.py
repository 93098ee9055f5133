"""Refuse writes on read-only pools, and limit new connections to pools."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from typing import Any

from django.db import DatabaseError, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from django_safe_init.conf import POOL_KEY
from django_safe_init.exceptions import ConfigurationError, ReadOnlyPool
from django_safe_init.pools.config import Pool, pool_of
from django_safe_init.pools.router import current_pool

#: The first word of the ORM's writes. The database rejects other statements that write.
_WRITE = re.compile(
    r"\s*(INSERT|UPDATE|DELETE|MERGE|REPLACE|TRUNCATE|CREATE|ALTER|DROP)\b",
    re.IGNORECASE,
)
#: SQLSTATE read_only_sql_transaction.
_READ_ONLY_STATE = "25006"


#: The module that limits a connection, by Django's `connection.vendor`.
LIMITS = {
    "postgresql": "django_safe_init.pools.postgresql",
    "sqlite": "django_safe_init.pools.sqlite3",
}


def guard_connection(connection: BaseDatabaseWrapper, **kwargs: Any) -> None:
    """Set the limits of a new connection; a receiver of `connection_created`."""
    pool = pool_of(connection.alias)
    if pool is None and not _has_pools(connection.alias):
        return
    if _refuse_writes not in connection.execute_wrappers:
        # At the first position: the end of `connection.execute_wrapper()` removes the last one.
        connection.execute_wrappers.insert(0, _refuse_writes)
    if pool is not None:
        _apply_limits(connection, pool)


def _has_pools(alias: str) -> bool:
    entries = connections.settings.values()
    return any(
        entry[POOL_KEY].database == alias for entry in entries if POOL_KEY in entry
    )


def _apply_limits(connection: BaseDatabaseWrapper, pool: Pool) -> None:
    module = LIMITS.get(connection.vendor)
    if module is None:
        return
    try:
        limits = import_module(module)
    except ImportError as exc:
        connection.close()  # Django would otherwise use it without limits
        raise ConfigurationError(
            f"No limits for the pool {pool.name!r} of database {pool.database!r}: {exc}. "
            "Run: pip install 'django-safe-init[pools]'"
        ) from exc
    limits.apply_limits(connection, pool.limits)


def _refuse_writes(
    execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: Any
) -> Any:
    """Raise `ReadOnlyPool` for a write on a read-only pool; an execute wrapper."""
    pool = _read_only_pool(context["connection"].alias)
    if pool is None:
        return execute(sql, params, many, context)
    if isinstance(sql, str) and _WRITE.match(sql):
        raise _read_only_error(pool)
    try:
        return execute(sql, params, many, context)
    except DatabaseError as exc:
        if _is_refused(exc):
            raise _read_only_error(pool) from exc
        raise


def _read_only_pool(alias: str) -> Pool | None:
    """Return the read-only pool of the alias, or of its database in a `using_pool` block."""
    name = current_pool()
    pool = pool_of(alias) or (pool_of(f"{alias}_{name}") if name else None)
    return pool if pool is not None and pool.limits.read_only else None


def _is_refused(error: DatabaseError) -> bool:
    state = getattr(error.__cause__, "sqlstate", None)
    return state == _READ_ONLY_STATE or "readonly database" in str(error)


def _read_only_error(pool: Pool) -> ReadOnlyPool:
    return ReadOnlyPool(
        f"The pool {pool.name!r} of the database {pool.database!r} is read-only. Write outside "
        "using_pool(), or in an inner block: with using_pool(None)."
    )
