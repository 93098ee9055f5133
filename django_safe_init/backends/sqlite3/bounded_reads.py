"""Bound the time of reads on Django's own connection to SQLite."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.db.backends.base.base import BaseDatabaseWrapper

_BUSY_MILLISECONDS = 1000


@contextmanager
def bounded_reads(connection: BaseDatabaseWrapper) -> Iterator[None]:
    """Limit each wait for another connection's lock inside the block."""
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA busy_timeout")
        [(before,)] = cursor.fetchall()
        cursor.execute(f"PRAGMA busy_timeout = {_BUSY_MILLISECONDS}")
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"PRAGMA busy_timeout = {before}")
