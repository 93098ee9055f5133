"""Open a driver's connection the way the project opens its own."""

from __future__ import annotations

import contextlib
import json
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import psycopg
from django.db import Error, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from psycopg.abc import AdaptContext, Buffer
from psycopg.adapt import AdaptersMap, Loader
from psycopg.postgres import register_default_adapters, types
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow, tuple_row
from psycopg.types.array import register_all_arrays

from django_safe_init.backends.postgresql.answer_limit import limit_answer
from django_safe_init.core.text import one_line
from django_safe_init.exceptions import ConfigurationError, UnsafeConnection

#: With this search path, no name in a statement means an object that another role created.
SEARCH_PATH = "pg_catalog, pg_temp"

Raw = psycopg.Connection[Any]

#: The wrappers of this module. Other receivers of `connection_created` get them too.
_private: weakref.WeakSet[BaseDatabaseWrapper] = weakref.WeakSet()
#: The connections of this package and of the project's wrappers.
_given_out: weakref.WeakSet[Raw] = weakref.WeakSet()


class _JsonLoader(Loader):
    """A loader of JSON that `set_json_loads` does not change."""

    def load(self, data: Buffer) -> Any:
        return json.loads(bytes(data))


def register_own_adapters(context: AdaptContext) -> None:
    """Give a connection or cursor the driver's own adapters, whatever the project registered."""
    register_default_adapters(context)
    for name in ("json", "jsonb"):
        context.adapters.register_loader(name, _JsonLoader)


@cache
def _own_adapters() -> AdaptersMap:
    """Return the adapters of all plain cursors: to register them takes a millisecond."""
    made = AdaptersMap(types=types)
    register_own_adapters(made)
    register_all_arrays(made)
    return made


class _PlainCursor(psycopg.ClientCursor[TupleRow]):
    @property
    def adapters(self) -> AdaptersMap:
        return _own_adapters()


def plain_cursor(raw: Raw) -> psycopg.ClientCursor[TupleRow]:
    """Return a cursor with tuples and the driver's own adapters, on a project's connection."""
    return _PlainCursor(raw, row_factory=tuple_row)


def plain_rows(
    connection: BaseDatabaseWrapper, statement: str, params: Sequence[Any] | None = None
) -> list[Any]:
    """Return the rows of one query on a connection of Django, with its search path.

    The query qualifies its functions and operators. Raises Django's errors.
    """
    connection.ensure_connection()
    with connection.wrap_database_errors:
        return plain_cursor(connection.connection).execute(statement, params).fetchall()


def pinned_rows(
    raw: Raw, statement: str, params: Mapping[str, Any] | Sequence[Any] | None = None
) -> list[Any]:
    """Return the rows of one query on a project's connection, without its search path.

    The connection keeps its search path and its transaction. Names mean only objects of
    `pg_catalog`, so the query calls no function or operator that another role created.
    """
    before, after = f"SET LOCAL search_path = {SEARCH_PATH}; ", ""
    if not raw.autocommit or raw.info.transaction_status is not TransactionStatus.IDLE:
        before = f"SAVEPOINT safe_init; {before}"
        after = "; ROLLBACK TO SAVEPOINT safe_init; RELEASE SAVEPOINT safe_init"
    return results(plain_cursor(raw).execute(f"{before}{statement}{after}", params))[-1]


def results(cursor: psycopg.Cursor[Any]) -> list[list[Any]]:
    """Return the rows of each statement that has a result."""
    found = [cursor.fetchall()] if cursor.description else []
    while cursor.nextset():
        if cursor.description:
            found.append(cursor.fetchall())
    return found


def is_private(wrapper: BaseDatabaseWrapper) -> bool:
    """Return True if the wrapper only makes a connection of this package."""
    return wrapper in _private


def copy_settings(values: Any) -> Any:
    """Return a copy of an alias's settings that shares no dictionary or list with them."""
    if isinstance(values, Mapping):
        return {key: copy_settings(value) for key, value in values.items()}
    return [*map(copy_settings, values)] if isinstance(values, list) else values


def hide_pools(wrapper: BaseDatabaseWrapper) -> None:
    """Give the wrapper a registry of pools of its own.

    Django and backends with pools keep one registry of all aliases on their class.
    """
    wrapper._connection_pools = {}  # type: ignore[attr-defined]  # no public way


def open_connection(
    wrapper: BaseDatabaseWrapper,
    options: Mapping[str, Any],
    patience: Callable[[], float] | None = None,
) -> Raw:
    """Return a connection made by the backend class, the settings and the receivers of a project.

    A private wrapper with the settings of `wrapper` and more libpq options connects once. It is
    never used again, so nothing can reconnect. The connection is in autocommit and has the
    driver's own adapters and cursors. `patience` returns the seconds in which the backend and the
    receivers must have set the connection up. Raises the driver's `OperationalError`,
    `ConfigurationError` for any other error, and `UnsafeConnection` if the project also uses
    the connection itself.
    """
    private = _private_wrapper(wrapper, options)
    try:
        with _driver_errors(wrapper.alias), _limited(private, patience):
            _connect(private)
            return _detach(private)
    except BaseException:
        _discard(private)
        raise


def _limited(
    private: BaseDatabaseWrapper, patience: Callable[[], float] | None
) -> contextlib.AbstractContextManager[None]:
    # `connect_timeout` ends with the login, before the statements of the backend and receivers.
    if patience is None:
        return contextlib.nullcontext()
    return limit_answer(
        lambda: _unwrap(private.connection), psycopg.OperationalError, patience()
    )


def _private_wrapper(
    wrapper: BaseDatabaseWrapper, options: Mapping[str, Any]
) -> BaseDatabaseWrapper:
    settings = copy_settings(wrapper.settings_dict)
    settings["OPTIONS"].update(options)
    private = type(wrapper)(settings, wrapper.alias)
    hide_pools(private)
    _private.add(private)
    return private


@contextlib.contextmanager
def _driver_errors(alias: str) -> Any:
    """Turn Django's errors into the driver's, and the errors of receivers into ours."""
    try:
        yield
    except (psycopg.OperationalError, UnsafeConnection):
        raise
    except Exception as exc:
        cause = exc.__cause__ if isinstance(exc, Error) else exc
        if isinstance(cause, psycopg.OperationalError):
            raise cause from None
        if isinstance(
            cause, psycopg.InterfaceError
        ):  # a receiver closed the connection
            raise psycopg.OperationalError(str(cause)) from exc
        raise ConfigurationError(
            f"DATABASES[{alias!r}] cannot be used: {type(exc).__name__}: {one_line(exc)}."
        ) from exc


def _connect(private: BaseDatabaseWrapper) -> None:
    try:
        private.connect()
    except Exception:
        # Django cannot set up a connection that already serves this package.
        if private.connection is not None:
            _refuse_shared(private)
        raise


def _detach(private: BaseDatabaseWrapper) -> Raw:
    """Take the connection from the wrapper, and prepare it for this package's statements."""
    _refuse_shared(private)
    raw: Raw = _unwrap(private.connection)
    _set_up(raw)
    private.connection = None
    _given_out.add(raw)
    return raw


def _refuse_shared(private: BaseDatabaseWrapper) -> None:
    """Raise `UnsafeConnection` if other code uses the connection of the wrapper, too."""
    reason = _shared(_unwrap(private.connection))
    if reason is not None:
        engine = private.settings_dict["ENGINE"]
        raise UnsafeConnection(
            f"The database {private.alias!r} needs a connection that nothing else uses, but its "
            f"ENGINE {engine} gives out {reason}. Use an ENGINE that opens a new connection."
        )


def _unwrap(raw: Any) -> Any:
    """Return the connection behind the transparent proxies of tracing tools."""
    while not issubclass(type(raw), psycopg.Connection) and hasattr(raw, "__wrapped__"):
        raw = raw.__wrapped__
    return raw


def _shared(raw: Any) -> str | None:
    """Return how the project still uses the connection, or None for a new connection."""
    if not issubclass(type(raw), psycopg.Connection):
        return f"a {type(raw).__name__} instead of a connection of psycopg"
    if getattr(raw, "_pool", None) is not None:
        return "a connection of a pool"
    return "a connection that it has given out before" if _is_in_use(raw) else None


def _is_in_use(raw: Any) -> bool:
    # Without a loop over the set: other threads add connections to it.
    return raw in _given_out or any(
        raw is _unwrap(wrapper.connection)
        for wrapper in connections.all(initialized_only=True)
    )


def _note_connection(connection: BaseDatabaseWrapper, **kwargs: Any) -> None:
    """Note a connection of the project; a receiver of `connection_created`."""
    raw = _unwrap(connection.connection)
    if connection not in _private and issubclass(type(raw), psycopg.Connection):
        _given_out.add(raw)


connection_created.connect(_note_connection)


def _discard(private: BaseDatabaseWrapper) -> None:
    """Give back the connection that the wrapper still has, unless other code uses it too."""
    raw = _unwrap(private.connection)
    if raw is None or _is_in_use(raw):
        return
    pool = getattr(raw, "_pool", None)
    with contextlib.suppress(Exception):  # the error that ended the attempt says more
        pool.putconn(raw) if pool is not None else private.close()


def _set_up(raw: Raw) -> None:
    if raw.info.transaction_status is TransactionStatus.INTRANS:
        raw.commit()  # the project's AUTOCOMMIT is False
    raw.autocommit = True
    raw.isolation_level = raw.read_only = raw.deferrable = None
    raw.prepare_threshold = None
    raw.row_factory = tuple_row
    raw.cursor_factory = psycopg.ClientCursor
    register_own_adapters(raw)
