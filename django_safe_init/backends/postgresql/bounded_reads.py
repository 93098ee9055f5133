"""Bound the time of reads on Django's own connection to PostgreSQL. Needs no driver."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from django.db import OperationalError, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from django_safe_init.backends.postgresql import answer_limit

_LIMITS = {"lock_timeout": "1s", "statement_timeout": "10s"}


@contextmanager
def bounded_reads(connection: BaseDatabaseWrapper) -> Iterator[None]:
    """Limit each wait for a lock, for a query and for an answer, inside the block.

    The limits belong to a transaction, so a pooler gives them to no other client. An outer
    transaction gets its own limits back.
    """

    def limit_answer() -> AbstractContextManager[None]:
        return answer_limit.limit_answer(
            lambda: connection.connection, OperationalError, answer_limit.ANSWER_SECONDS
        )

    def execute_limited(execute: Callable[..., Any], *arguments: Any) -> Any:
        with limit_answer():
            return execute(*arguments)

    with ExitStack() as stack:
        stack.enter_context(connection.execute_wrapper(execute_limited))
        atomic = transaction.atomic(using=connection.alias)
        with limit_answer():
            atomic.__enter__()

        @stack.push
        def end(*error: Any) -> Any:
            with limit_answer():
                return atomic.__exit__(*error)

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
