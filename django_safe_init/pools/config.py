"""The entries of DATABASES that belong to one database, for the settings file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from django_safe_init.conf import POOL_KEY

#: What PostgreSQL takes for a time-out.
_MOST_SECONDS = (2**31 - 1) / 1000


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_seconds(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and 0 < value <= _MOST_SECONDS


def _wrong(name: str, value: Any, right: str) -> ImproperlyConfigured:
    return ImproperlyConfigured(f"SlowPool({name}={value!r}): use {right}.")


@dataclass(frozen=True)
class SlowPool:
    """What a slow pool allows. Durations are in seconds."""

    #: How many connections one process may have; None for one a thread, without a psycopg pool.
    size: int | None = 2
    #: When the server ends a statement; None for when the role's own time-out does.
    statement_timeout: float | None = 300
    #: Whether it refuses to write.
    read_only: bool = True
    #: How long a query waits for a connection.
    wait: float = 30
    #: In what the entry differs from the database's own, such as the `HOST` of a standby.
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
    """Which pool of which database an entry of DATABASES is."""

    #: The alias for quick queries, which is the database for everybody else.
    database: str
    #: What `using_pool` calls it.
    name: str
    limits: SlowPool

    @property
    def alias(self) -> str:
        """The alias of the pool."""
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
    """Entries of DATABASES: `database` as `alias`, and a slow pool of it as `{alias}_{pool}` each.

    There is one named "analytics", unless that is None; each further keyword is one more.
    `database` itself is not changed. Raises `ImproperlyConfigured`.
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
        # Django would open each request's transaction here too.
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
        entry["CONN_MAX_AGE"] = 0  # Django allows no other beside a psycopg pool
    return entry


class _PsycopgPool(dict[str, Any]):
    """Options of a psycopg pool; false, so that there is none, while the alias is a test mirror.

    Django closes no pool of a mirror, and could not drop the test database while it is open.
    """

    def __init__(self, entry: Mapping[str, Any], pool: Pool) -> None:
        given = entry["OPTIONS"].get("pool")
        super().__init__(
            {
                **(given if isinstance(given, Mapping) else {}),
                "min_size": 0,  # a process without a slow query keeps no connection for one
                "max_size": pool.limits.size,
                "timeout": pool.limits.wait,
            }
        )
        self._alias, self._name = pool.alias, entry.get("NAME")

    def __bool__(self) -> bool:
        # A mirror is given the name of the test database.
        return bool(connections.settings[self._alias].get("NAME") == self._name)


def _has_psycopg(entry: Mapping[str, Any]) -> bool:
    """By the name of the backend: it cannot be imported while settings are read."""
    return "postg" in entry.get("ENGINE", "")
