"""Bound the time of reads on Django's own connection to PostgreSQL. Needs no driver."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper

_LIMITS = {"lock_timeout": "1s", "statement_timeout": "10s"}


@contextmanager
def bounded_reads(connection: BaseDatabaseWrapper) -> Iterator[None]:
    """Limit each wait for a lock, and each query, inside the block.

    The limits belong to a transaction, so a pooler gives them to no other client. An outer
    transaction gets its own limits back.
    """
    with transaction.atomic(using=connection.alias):
        before = {name: _current(connection, name) for name in _LIMITS}
        _set(connection, _LIMITS)
        yield
        _set(connection, before)


def limit_reads(connection: BaseDatabaseWrapper) -> None:
    """Set the limits for the transaction that is open on the connection."""
    _set(connection, _LIMITS)


def _current(connection: BaseDatabaseWrapper, name: str) -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting(%s)", [name])
        return str(cursor.fetchone()[0])


def _set(connection: BaseDatabaseWrapper, limits: dict[str, str]) -> None:
    with connection.cursor() as cursor:
        for item in limits.items():
            cursor.execute("SELECT set_config(%s, %s, true)", item)
