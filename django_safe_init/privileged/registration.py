"""How a ready-made step of the privileged phase is registered."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from typing import Any

from django_safe_init.core.step import PrivilegedContext
from django_safe_init.core.step_registry import init_step

_PACKAGE = __name__.rpartition(".")[0]
_NO_WORD = re.compile(r"[^\w-]+")


def register(
    name: str,
    ensure: Callable[[PrivilegedContext], None],
    done: Callable[[PrivilegedContext], bool],
    after: Iterable[str] = (),
) -> None:
    """Register it for the app whose module has called into this package."""
    ensure.__module__ = caller()
    init_step(
        ensure,
        name=step_name(name),
        phase="privileged",
        done=done,
        after=after,
    )


def step_name(text: str) -> str:
    """The text as the name of a step."""
    return _NO_WORD.sub("_", text)


def caller() -> str:
    """The module outside of this package that has called into it."""
    frame = sys._getframe(1)
    while frame.f_globals["__name__"].startswith(_PACKAGE):
        assert frame.f_back is not None  # this package is nobody's first
        frame = frame.f_back
    return str(frame.f_globals["__name__"])


def run(connection: Any, statement: str, **names: str) -> None:
    """Run a statement with `{name}` for identifiers, quoted by the driver."""
    from psycopg import sql  # not above: projects on SQLite may have no driver

    identifiers = {key: sql.Identifier(value) for key, value in names.items()}
    with connection.cursor() as cursor:
        cursor.execute(sql.SQL(statement).format(**identifiers))


def rows(connection: Any, query: str, *params: Any) -> list[tuple[Any, ...]]:
    """The rows of a query of the catalogue."""
    with connection.cursor() as cursor:
        cursor.execute(query, params)
        return list(cursor.fetchall())
