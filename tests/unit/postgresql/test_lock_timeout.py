"""DDL_LOCK_TIMEOUT as a PostgreSQL setting."""

from __future__ import annotations

import pytest

from django_safe_init.backends.postgresql.lock_timeout import PostgresLockTimeout
from django_safe_init.conf import Settings


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, None), (2, "2000ms"), (0.00001, "1ms"), (1e9, f"{2**31 - 1}ms")],
)
def test_the_time_out_as_the_server_wants_it(seconds, text) -> None:
    """It is never 0, which would mean no limit, and never more than the server takes."""
    waits = PostgresLockTimeout(Settings(ddl_lock_timeout=seconds), None, None)
    assert waits.timeout == text
