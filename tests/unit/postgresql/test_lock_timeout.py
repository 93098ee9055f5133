"""DDL_LOCK_TIMEOUT as a PostgreSQL setting."""

from __future__ import annotations

import pytest

from django_safe_init.backends.postgresql.lock_timeout import PostgresLockTimeout
from django_safe_init.conf import Settings
from django_safe_init.core.deadline import Deadline


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, None), (2, "2000ms"), (0.00001, "1ms"), (1e9, f"{2**31 - 1}ms")],
)
def test_the_server_setting(seconds, text) -> None:
    """The timeout is at least 1 ms and at most PostgreSQL's maximum."""
    lock_timeout = PostgresLockTimeout(
        Settings(ddl_lock_timeout=seconds), None, None, Deadline(None)
    )
    assert lock_timeout.timeout == text
