"""Limits of a slow pool on SQLite."""

from __future__ import annotations

from django.db.backends.base.base import BaseDatabaseWrapper

from django_safe_init.pools.config import SlowPool


def apply_limits(connection: BaseDatabaseWrapper, limits: SlowPool) -> None:
    """Make the open connection read-only if the pool is; SQLite has no time-out to set."""
    if limits.read_only:
        connection.connection.execute("PRAGMA query_only = ON")
