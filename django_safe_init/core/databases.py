"""The databases of the project, by their aliases: what they are, and whether they can be used."""

from __future__ import annotations

from enum import Enum
from importlib.util import find_spec

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from django_safe_init.conf import POOL_KEY
from django_safe_init.exceptions import ConfigurationError, UnsupportedEngine


class BackendKind(Enum):
    """What this package can do for a database, by its engine."""

    #: Leads and follows, with an advisory lock.
    POSTGRESQL = "postgresql"
    #: Leads and follows, with the operating system's lock on a file.
    SQLITE = "sqlite"
    #: SQLite in memory: nobody else can be there, so nothing is needed.
    MEMORY = "memory"
    #: No lock is known: at most Django as it is.
    UNKNOWN = "unknown"

    @property
    def has_lock(self) -> bool:
        """Whether processes can exclude each other there."""
        return self in (BackendKind.POSTGRESQL, BackendKind.SQLITE)


def engine_of(alias: str) -> BackendKind:
    """The engine of a database, by its Django backend."""
    wrapper = connections[alias]
    if wrapper.vendor == "postgresql":
        return BackendKind.POSTGRESQL
    if wrapper.vendor != "sqlite":
        return BackendKind.UNKNOWN
    if _is_in_memory(str(wrapper.settings_dict["NAME"])):
        return BackendKind.MEMORY
    # Windows has no such locks.
    return BackendKind.SQLITE if find_spec("fcntl") else BackendKind.UNKNOWN


def _is_in_memory(name: str) -> bool:
    """Whether a database of SQLite is in memory; Django does not know all the ways to say so."""
    path, _, query = name.removeprefix("file:").partition("?")
    return path == ":memory:" or "mode=memory" in query or "vfs=memdb" in query


def require_engine(alias: str) -> BackendKind:
    """The engine of a database. Raises `UnsupportedEngine` if this package knows no lock for it."""
    engine = engine_of(alias)
    if engine is BackendKind.UNKNOWN:
        raise UnsupportedEngine(
            f"The database {alias!r} is {connections[alias].display_name}, for which there is "
            "no leader lock here. Use PostgreSQL, or accept the risk of concurrent "
            'initialization with SAFE_INIT = {"LOCK": "none"}.'
        )
    return engine


def check_alias(alias: str) -> None:
    """Raise `ConfigurationError` unless `alias` is a database of this project."""
    check_not_pool(alias)
    if alias not in connections.settings:
        raise ConfigurationError(
            f"There is no database {alias!r} in DATABASES. "
            f"Use one of: {', '.join(connections.settings)}."
        )


def check_not_pool(alias: str) -> None:
    """Raise `ConfigurationError` if `alias` is a slow pool of a database."""
    pool = connections.settings.get(alias, {}).get(POOL_KEY)
    if pool is not None:
        raise ConfigurationError(
            f"{alias!r} is a pool of the database {pool.database!r}. Use "
            f"{pool.database!r}: it is what is initialized."
        )


def existing_wrapper(alias: str) -> BaseDatabaseWrapper | None:
    """This thread's wrapper of the alias, if it has one."""
    present = connections._connections  # type: ignore[attr-defined]  # no public way to look
    wrapper: BaseDatabaseWrapper | None = getattr(present, alias, None)
    return wrapper


def check_outside_transaction(alias: str) -> None:
    """Raise `ConfigurationError` inside `transaction.atomic()`: the run would not see its work."""
    wrapper = existing_wrapper(alias)
    if wrapper is not None and wrapper.in_atomic_block:
        raise ConfigurationError(
            f"The database {alias!r} cannot be initialized inside transaction.atomic(): "
            "the work happens on a connection of its own. Call it outside."
        )
