"""The limits of a new connection, without a database."""

from __future__ import annotations

from unittest.mock import Mock

from django.db import connections

from django_safe_init.pools import Pool, SlowPool
from django_safe_init.pools.config import POOL_KEY
from django_safe_init.pools.execute_wrappers import guard_connection


def test_an_engine_without_limits(monkeypatch) -> None:
    """A pool on an engine without limits refuses writes, and sets nothing on the connection."""
    pool = Pool("default", "reports", SlowPool())
    monkeypatch.setitem(connections.settings, pool.alias, {POOL_KEY: pool})
    connection = Mock(alias=pool.alias, vendor="oracle", execute_wrappers=[])
    guard_connection(connection)
    assert len(connection.execute_wrappers) == 1
    assert connection.connection.mock_calls == []
