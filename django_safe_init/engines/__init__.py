"""What differs between database engines: how to read, to wait, to lead.

Imported when needed: a start with nothing to do pays for no more than a look, and a project on
SQLite alone needs no driver of PostgreSQL.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from django_safe_init.aliases import Engine as Kind
from django_safe_init.aliases import engine_of, require_engine
from django_safe_init.build import Build
from django_safe_init.conf import Settings
from django_safe_init.deadline import Deadline

if TYPE_CHECKING:
    from django_safe_init.engines.base import Engine, Eyes, Inspector, StatusReader
    from django_safe_init.holding import Holder
    from django_safe_init.runner import Initializer


def open_eyes(
    alias: str,
    build: Build,
    settings: Settings,
    deadline: Deadline,
    report: Callable[[str], None],
) -> Eyes:
    """How a process looks at a database with a lock; `report` takes the reason for each wait."""
    if engine_of(alias) is Kind.SQLITE:
        from django_safe_init.engines.sqlite.watch import SqliteWatch

        return SqliteWatch(alias, build, settings, deadline)
    from django_safe_init.watch import Watch

    return Watch(alias, build, settings, deadline, report)


def open_engine(process: Initializer, eyes: Any) -> Engine[Any]:
    """A process's way to lead or follow, with the eyes that `open_eyes` gave it."""
    if engine_of(process.database) is Kind.SQLITE:
        from django_safe_init.engines.sqlite.engine import SqliteEngine

        return SqliteEngine(process, eyes)
    from django_safe_init.engines.postgresql.engine import PostgresEngine

    return PostgresEngine(process, eyes)


def open_reader(
    alias: str,
    build: Build,
    settings: Settings,
    deadline: Deadline,
    report: Callable[[str], None],
) -> StatusReader:
    """A reader for somebody outside, to be closed. Raises `UnsupportedEngine`."""
    kind = require_engine(alias)
    if kind is Kind.SQLITE:
        from django_safe_init.engines.sqlite.reader import SqliteReader

        return SqliteReader(alias, build, settings.lock_key)
    if kind is Kind.MEMORY:
        from django_safe_init.engines.memory import MemoryReader

        return MemoryReader(alias, build)
    from django_safe_init.connections import connect, make_wrapper
    from django_safe_init.reader import Reader

    session = connect(
        make_wrapper(alias), settings, deadline, "safe_init status", report
    )
    return Reader(session, build, settings.lock_key)


def open_inspector(
    alias: str,
    settings: Settings,
    deadline: Deadline,
    report: Callable[[str], None],
) -> Inspector:
    """Whoever opens it closes it. Raises `UnsupportedEngine`."""
    kind = require_engine(alias)
    if kind is Kind.SQLITE:
        from django_safe_init.engines.sqlite.inspector import open_inspector

        return open_inspector(alias)
    if kind is Kind.MEMORY:
        from django_safe_init.engines.memory import open_inspector

        return open_inspector(alias)
    from django_safe_init.connections import connect, make_wrapper
    from django_safe_init.engines.postgresql.inspector import PostgresInspector

    name = "safe_init validate"
    session = connect(make_wrapper(alias), settings, deadline, name, report)
    return PostgresInspector(session, settings, session.read)


def open_holder(
    alias: str, settings: Settings, report: Callable[[str], None]
) -> AbstractContextManager[Holder | None]:
    """Who holds the leader lock, or None. Raises `UnsupportedEngine`."""
    kind = require_engine(alias)
    if kind is Kind.SQLITE:
        from django_safe_init.engines.sqlite import holder

        return holder.open_holder(alias, settings)
    if kind is Kind.MEMORY:
        return nullcontext()
    from django_safe_init.engines.postgresql.holder import open_holder

    return open_holder(alias, settings, report)
