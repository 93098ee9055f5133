"""Generate the entries of DATABASES for a database and its slow pools."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from django_safe_init.conf import POOL_KEY

#: The maximum of a timeout in PostgreSQL.
_MAX_SECONDS = (2**31 - 1) / 1000


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_seconds(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and 0 < value <= _MAX_SECONDS


def _wrong(name: str, value: Any, right: str) -> ImproperlyConfigured:
    return ImproperlyConfigured(f"SlowPool({name}={value!r}): use {right}.")


@dataclass(frozen=True)
class SlowPool:
    """The limits of a slow pool. Durations are in seconds."""

    #: Maximum number of connections of one process. None: one for each thread, without a
    #: psycopg pool.
    size: int | None = 2
    #: PostgreSQL cancels a statement after this time. None: the timeout of the role applies.
    statement_timeout: float | None = 300
    #: If True, writes raise `ReadOnlyPool`.
    read_only: bool = True
    #: Maximum time a query waits for a free connection.
    wait: float = 30
    #: Settings that differ from the entry of the database, such as the `HOST` of a standby.
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count, seconds = "a positive integer", "a positive number of seconds"
        if self.size is not None and not _is_count(self.size):
            raise _wrong("size", self.size, f"{count}, or None")
        if self.statement_timeout is not None and not _is_seconds(
            self.statement_timeout
        ):
            raise _wrong(
                "statement_timeout", self.statement_timeout, f"{seconds}, or None"
            )
        if not _is_seconds(self.wait):
            raise _wrong("wait", self.wait, seconds)


@dataclass(frozen=True)
class Pool:
    """The slow pool that an entry of DATABASES configures."""

    #: The alias of the database itself, which quick queries use.
    database: str
    #: The argument of `using_pool`.
    name: str
    limits: SlowPool

    @property
    def alias(self) -> str:
        """Return the alias of the pool."""
        return f"{self.database}_{self.name}"


def pool_of(alias: str) -> Pool | None:
    """Return the slow pool that the alias is, or None if the alias is a database."""
    pool: Pool | None = connections.settings.get(alias, {}).get(POOL_KEY)
    return pool


def primary_alias(alias: str) -> str:
    """Return the alias of the database that the alias, or its slow pool, belongs to."""
    pool = pool_of(alias)
    return alias if pool is None else pool.database


_ANALYTICS = SlowPool()


def pools(
    database: Mapping[str, Any],
    alias: str = "default",
    *,
    analytics: SlowPool | None = _ANALYTICS,
    **more: SlowPool | None,
) -> dict[str, dict[str, Any]]:
    """Return entries of DATABASES: `database` as `alias`, and each slow pool as `{alias}_{pool}`.

    The pool "analytics" is included unless `analytics` is None. Each further keyword argument
    adds a pool with its name. `database` itself is not modified.

    Raise `ImproperlyConfigured` if an argument is not a `SlowPool` or None.
    """
    entries = {alias: dict(database)}
    slow: Mapping[str, Any] = {"analytics": analytics, **more}
    for name, limits in slow.items():
        if limits is None:
            continue
        if not isinstance(limits, SlowPool):
            raise ImproperlyConfigured(
                f"pools({name}={limits!r}): use {name}=SlowPool(...)."
            )
        pool = Pool(alias, name, limits)
        entries[pool.alias] = _entry(database, pool)
    return entries


def _entry(database: Mapping[str, Any], pool: Pool) -> dict[str, Any]:
    limits = pool.limits
    entry = {
        **database,
        **limits.settings,
        # Django would otherwise open a transaction for each request on the pool, too.
        "ATOMIC_REQUESTS": False,
        "OPTIONS": {
            **database.get("OPTIONS", {}),
            **limits.settings.get("OPTIONS", {}),
        },
        "TEST": {"MIRROR": pool.database},
        POOL_KEY: pool,
    }
    if limits.size is None:
        entry["OPTIONS"].pop("pool", None)
    elif _has_psycopg(entry):
        entry["OPTIONS"]["pool"] = _PsycopgPool(entry, pool)
        entry["CONN_MAX_AGE"] = 0  # Django requires 0 with a psycopg pool
    return entry


class _PsycopgPool(dict[str, Any]):
    """The options of a psycopg pool, falsy while the alias is a test mirror.

    Falsy options disable the psycopg pool. Django does not close the pool of a mirror, and the
    open connections would prevent it from dropping the test database.
    """

    def __init__(self, entry: Mapping[str, Any], pool: Pool) -> None:
        given = entry["OPTIONS"].get("pool")
        super().__init__(
            {
                **(given if isinstance(given, Mapping) else {}),
                "min_size": 0,  # no connection until the first slow query
                "max_size": pool.limits.size,
                "timeout": pool.limits.wait,
            }
        )
        self._alias, self._name = pool.alias, entry.get("NAME")

    def __bool__(self) -> bool:
        # Django gives a mirror the name of the test database.
        return bool(connections.settings[self._alias].get("NAME") == self._name)


def _has_psycopg(entry: Mapping[str, Any]) -> bool:
    """Return True if the name of the engine is one of PostgreSQL's.

    The engine cannot be imported while Django reads the settings.
    """
    return "postg" in entry.get("ENGINE", "")
