"""Register a built-in privileged step, and run its SQL."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from typing import Any

from django_safe_init.core.step import PrivilegedContext
from django_safe_init.core.step_registry import init_step

_PACKAGE = __name__.rpartition(".")[0]
_INVALID_CHARACTERS = re.compile(r"[^\w-]+")


def register(
    name: str,
    ensure: Callable[[PrivilegedContext], None],
    done: Callable[[PrivilegedContext], bool],
    after: Iterable[str] = (),
) -> None:
    """Register a privileged step for the app whose module called this package."""
    ensure.__module__ = calling_module()
    init_step(
        ensure,
        name=step_name(name),
        phase="privileged",
        done=done,
        after=after,
    )


def step_name(text: str) -> str:
    """Return the text as a valid name of a step: invalid characters become `_`."""
    return _INVALID_CHARACTERS.sub("_", text)


def calling_module() -> str:
    """Return the name of the module that called this package."""
    frame = sys._getframe(1)
    while frame.f_globals["__name__"].startswith(_PACKAGE):
        assert frame.f_back is not None  # a module outside called this one
        frame = frame.f_back
    return str(frame.f_globals["__name__"])


def execute(connection: Any, statement: str, **names: str) -> None:
    """Execute the statement, whose `{placeholders}` are identifiers with these names."""
    from psycopg import sql  # projects on SQLite may not have the driver

    identifiers = {key: sql.Identifier(value) for key, value in names.items()}
    with connection.cursor() as cursor:
        cursor.execute(sql.SQL(statement).format(**identifiers))


def query(connection: Any, statement: str, *params: Any, **named: Any) -> list[Any]:
    """Return the rows of a query with positional or named parameters.

    Another role may have created functions that an administrator must not call. So names in
    the query mean only objects of `pg_catalog`.
    """
    # Projects on SQLite may not have the driver.
    from django_safe_init.backends.postgresql.project_connection import pinned_rows

    connection.ensure_connection()
    with connection.wrap_database_errors:
        return pinned_rows(connection.connection, statement, named or params)
