"""Route queries to slow pools: `using_pool` and the database router that applies it."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

from asgiref.sync import iscoroutinefunction
from django.db import connections, router
from django.db.utils import ConnectionRouter

from django_safe_init.conf import (
    POOL_KEY,
    get_settings,
    in_project_tests,
    in_test_environment,
)
from django_safe_init.core.databases import existing_wrapper
from django_safe_init.exceptions import ConfigurationError
from django_safe_init.pools.config import pool_of, primary_alias

if TYPE_CHECKING:
    from django.db.models import Model

logger = logging.getLogger("django_safe_init")

F = TypeVar("F", bound=Callable[..., Any])
ROUTER = "django_safe_init.pools.PoolRouter"

#: The pools of the `using_pool` blocks around the current code, innermost last.
_blocks: ContextVar[tuple[str | None, ...]] = ContextVar(
    "django_safe_init.pools", default=()
)
#: The aliases of pools whose use inside a transaction was logged, to log each once.
_logged_pools: set[str] = set()


def current_pool() -> str | None:
    """Return the pool of the innermost `using_pool` block; None outside of a block."""
    blocks = _blocks.get()
    return blocks[-1] if blocks else None


class using_pool:
    """Send the ORM's queries to the slow pool `name` of their database.

    Use it as a context manager, or as a decorator of functions and coroutine functions. Blocks
    nest: the innermost block decides, and `using_pool(None)` sends queries to the database's
    own alias. One object can be entered again, also by several threads and tasks at once. The
    block applies to this thread or task, to the tasks it starts, and to functions that asgiref
    runs in threads. Databases without a pool of that name are not affected.

    While a transaction is open on the database's own alias, queries of that database stay in
    the transaction. If the pool is read-only, a write to its database raises `ReadOnlyPool`,
    also on the database's own alias.

    Entering the block raises `ConfigurationError` if no database has a pool of that name, or if
    `PoolRouter` is not the first of DATABASE_ROUTERS.
    """

    def __init__(self, name: str | None) -> None:
        self.name = name

    def __enter__(self) -> None:
        _check_pool(self.name)
        # The stack is in the context, because other threads and tasks may use this object.
        _blocks.set((*_blocks.get(), self.name))

    def __exit__(self, *exc_info: object) -> None:
        _blocks.set(_blocks.get()[:-1])

    def __call__(self, function: F) -> F:
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(
            function
        ):
            raise ConfigurationError(
                f"using_pool({self.name!r}) cannot decorate the generator "
                f"{function.__qualname__}: what its caller does between two items would go to "
                "the pool too. Use it around the loop."
            )
        if iscoroutinefunction(function):

            @wraps(function)
            async def in_pool(*args: Any, **kwargs: Any) -> Any:
                with self:
                    return await function(*args, **kwargs)

        else:

            @wraps(function)
            def in_pool(*args: Any, **kwargs: Any) -> Any:
                with self:
                    return function(*args, **kwargs)

        return cast(F, in_pool)


def _check_pool(name: str | None) -> None:
    names = sorted(pool_names())
    if name is not None and name not in names:
        raise ConfigurationError(
            f"No database of this project has a pool {name!r}. "
            + (f"Use one of: {', '.join(names)}." if names else "Add it with pools().")
        )
    if not is_routed():
        raise ConfigurationError(
            f'using_pool() has no effect. Set DATABASE_ROUTERS = ["{ROUTER}", ...].'
        )


def check_outside_using_pool() -> None:
    """Raise `ConfigurationError` inside `using_pool`, where a migration would use the pool."""
    if current_pool() is not None:
        raise ConfigurationError(
            "A database cannot be initialized inside using_pool(): its migrations would use the "
            "pool. Call it outside."
        )


def pool_names() -> set[str]:
    """Return the names of the slow pools of all databases."""
    entries = connections.settings.values()
    return {entry[POOL_KEY].name for entry in entries if POOL_KEY in entry}


def is_routed() -> bool:
    """Return True if `PoolRouter` is the first of DATABASE_ROUTERS."""
    return any(isinstance(each, PoolRouter) for each in router.routers[:1])


class PoolRouter:
    """A database router that sends queries to the pool of the `using_pool` block.

    Set it as the first of DATABASE_ROUTERS. The routers after it select the database.
    """

    def db_for_read(self, model: type[Model], **hints: Any) -> str | None:
        return _route("db_for_read", model, hints)

    def db_for_write(self, model: type[Model], **hints: Any) -> str | None:
        return _route("db_for_write", model, hints)

    def allow_relation(self, one: Model, other: Model, **hints: Any) -> bool | None:
        """Allow relations between objects that were loaded through pools of one database."""
        aliases = {one._state.db or "", other._state.db or ""}
        if len(aliases) == 2 and len({*map(primary_alias, aliases)}) == 1:
            return True
        return None

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool | None:
        """Refuse migrations on a pool: the alias of its database migrates the database."""
        return False if pool_of(db) else None


def _route(action: str, model: type[Model], hints: Mapping[str, Any]) -> str | None:
    name = current_pool()
    if name is None and pool_of(_source_alias(hints.get("instance"))) is None:
        return None
    others = [each for each in router.routers if not isinstance(each, PoolRouter)]
    alias = getattr(ConnectionRouter(others), action)(model, **hints)
    return _alias_for(primary_alias(alias), name)


def _source_alias(instance: Any) -> str:
    return "" if instance is None else instance._state.db or ""


def _alias_for(primary: str, name: str | None) -> str:
    """Return the alias for queries of the database in a block with the pool `name`."""
    slow = f"{primary}_{name}"
    if pool_of(slow) is None or _in_mirrored_tests():
        return primary
    # Only the transaction sees its own writes, and its reads must be consistent.
    if _in_transaction(primary) and not _in_transaction(slow):
        _log_once(name, primary)
        return primary
    return slow


def _in_mirrored_tests() -> bool:
    """Return True in a project's tests, whose data may be in an open transaction."""
    return in_test_environment() and in_project_tests(get_settings())


def _in_transaction(alias: str) -> bool:
    wrapper = existing_wrapper(alias)
    if wrapper is None or wrapper.connection is None:
        return False
    return wrapper.in_atomic_block or not wrapper.autocommit


def _log_once(name: str | None, primary: str) -> None:
    slow = f"{primary}_{name}"
    if slow not in _logged_pools:
        _logged_pools.add(slow)
        logger.warning(
            "using_pool(%r) inside a transaction of %r: the queries stay in the transaction.",
            name,
            primary,
        )
