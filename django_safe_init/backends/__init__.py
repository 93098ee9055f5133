"""What differs between database engines: how to read, to wait, to lead.

Imported when needed: a start with nothing to do pays for no more than a look, and a project on
SQLite alone needs no driver of PostgreSQL.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from django_safe_init.conf import Settings
from django_safe_init.core.build import Build
from django_safe_init.core.databases import BackendKind as Kind
from django_safe_init.core.databases import engine_of, require_engine
from django_safe_init.core.deadline import Deadline

if TYPE_CHECKING:
    from django_safe_init.backends.base.backend import (
        BaseBackend,
        BaseObserver,
        BaseReader,
    )
    from django_safe_init.backends.base.holder import LockHolder
    from django_safe_init.backends.base.introspection import BaseIntrospection
    from django_safe_init.initialization.initializer import Initializer


def open_eyes(
    alias: str,
    build: Build,
    settings: Settings,
    deadline: Deadline,
    report: Callable[[str], None],
) -> BaseObserver:
    """How a process looks at a database with a lock; `report` takes the reason for each wait."""
    if engine_of(alias) is Kind.SQLITE:
        from django_safe_init.backends.sqlite3.observer import SQLiteObserver

        return SQLiteObserver(alias, build, settings, deadline)
    from django_safe_init.backends.postgresql.observer import PostgresObserver

    return PostgresObserver(alias, build, settings, deadline, report)


def open_engine(process: Initializer, eyes: Any) -> BaseBackend[Any]:
    """A process's way to lead or follow, with the eyes that `open_eyes` gave it."""
    if engine_of(process.database) is Kind.SQLITE:
        from django_safe_init.backends.sqlite3.backend import SQLiteBackend

        return SQLiteBackend(process, eyes)
    from django_safe_init.backends.postgresql.backend import PostgresBackend

    return PostgresBackend(process, eyes)


def open_reader(
    alias: str,
    build: Build,
    settings: Settings,
    deadline: Deadline,
    report: Callable[[str], None],
) -> BaseReader:
    """A reader for somebody outside, to be closed. Raises `UnsupportedEngine`."""
    kind = require_engine(alias)
    if kind is Kind.SQLITE:
        from django_safe_init.backends.sqlite3.reader import SQLiteReader

        return SQLiteReader(alias, build, settings.lock_key)
    if kind is Kind.MEMORY:
        from django_safe_init.backends.sqlite3.memory import MemoryReader

        return MemoryReader(alias, build)
    from django_safe_init.backends.postgresql.reader import PostgresReader
    from django_safe_init.backends.postgresql.session import (
        connect,
        create_direct_wrapper,
    )

    session = connect(
        create_direct_wrapper(alias), settings, deadline, "safe_init status", report
    )
    return PostgresReader(session, build, settings.lock_key)


def open_introspection(
    alias: str,
    settings: Settings,
    deadline: Deadline,
    report: Callable[[str], None],
) -> BaseIntrospection:
    """Whoever opens it closes it. Raises `UnsupportedEngine`."""
    kind = require_engine(alias)
    if kind is Kind.SQLITE:
        from django_safe_init.backends.sqlite3.introspection import open_introspection

        return open_introspection(alias)
    if kind is Kind.MEMORY:
        from django_safe_init.backends.sqlite3.memory import open_introspection

        return open_introspection(alias)
    from django_safe_init.backends.postgresql.introspection import PostgresIntrospection
    from django_safe_init.backends.postgresql.session import (
        connect,
        create_direct_wrapper,
    )

    name = "safe_init validate"
    session = connect(create_direct_wrapper(alias), settings, deadline, name, report)
    return PostgresIntrospection(session, settings, session.read)


def open_holder(
    alias: str, settings: Settings, report: Callable[[str], None]
) -> AbstractContextManager[LockHolder | None]:
    """Who holds the leader lock, or None. Raises `UnsupportedEngine`."""
    kind = require_engine(alias)
    if kind is Kind.SQLITE:
        from django_safe_init.backends.sqlite3 import holder

        return holder.open_holder(alias, settings)
    if kind is Kind.MEMORY:
        return nullcontext()
    from django_safe_init.backends.postgresql.holder import open_holder

    return open_holder(alias, settings, report)
