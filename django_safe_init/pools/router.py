"""Where a query goes: `using_pool`, and the router that obeys it."""

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

#: The pools of the blocks that this context is in, the innermost last.
_entered: ContextVar[tuple[str | None, ...]] = ContextVar(
    "django_safe_init.pools", default=()
)
#: The pools that were asked for in a transaction of the fast alias; each is said once.
_unheeded: set[str] = set()


def current_pool() -> str | None:
    """The pool that queries of this context go to; None outside every block."""
    entered = _entered.get()
    return entered[-1] if entered else None


class using_pool:
    """Send the ORM's queries to the slow pool `name` of their database; None for the fast alias.

    A context manager, and a decorator of functions and coroutine functions. Blocks nest; the
    innermost counts. One object may be entered again, and by several threads and tasks at once.
    The block holds for this thread or task, for the tasks it starts, and for what asgiref runs
    in threads. A database without such a pool is used as outside the block.

    While a transaction is open on the fast alias, queries of that database stay in it. Where the
    pool is read-only, a write of that database raises `ReadOnlyPool`, also on the fast alias.

    Entering raises `ConfigurationError` if no database has such a pool, or no router obeys.
    """

    def __init__(self, name: str | None) -> None:
        self.name = name

    def __enter__(self) -> None:
        _require(self.name)
        # A stack in the context, and nothing on the object: it may be in use elsewhere.
        _entered.set((*_entered.get(), self.name))

    def __exit__(self, *exc_info: object) -> None:
        _entered.set(_entered.get()[:-1])

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


def _require(name: str | None) -> None:
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
    """Raise `ConfigurationError` inside `using_pool`: a migration would read elsewhere."""
    if current_pool() is not None:
        raise ConfigurationError(
            "A database cannot be initialized inside using_pool(): its migrations would use the "
            "pool. Call it outside."
        )


def pool_names() -> set[str]:
    """The names of the slow pools that databases of this project have."""
    entries = connections.settings.values()
    return {entry[POOL_KEY].name for entry in entries if POOL_KEY in entry}


def is_routed() -> bool:
    """Whether our router is asked first."""
    return any(isinstance(each, PoolRouter) for each in router.routers[:1])


class PoolRouter:
    """The first of DATABASE_ROUTERS: sends queries where `using_pool` says.

    Which database a model is in, the routers after it decide.
    """

    def db_for_read(self, model: type[Model], **hints: Any) -> str | None:
        return _route("db_for_read", model, hints)

    def db_for_write(self, model: type[Model], **hints: Any) -> str | None:
        return _route("db_for_write", model, hints)

    def allow_relation(self, one: Model, other: Model, **hints: Any) -> bool | None:
        """Objects that were loaded through different pools are of one database."""
        aliases = {one._state.db or "", other._state.db or ""}
        if len(aliases) == 2 and len({*map(primary_alias, aliases)}) == 1:
            return True
        return None

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool | None:
        """The database is migrated by its own alias, and not once more by its pools."""
        return False if pool_of(db) else None


def _route(action: str, model: type[Model], hints: Mapping[str, Any]) -> str | None:
    name = current_pool()
    if name is None and pool_of(_loaded_from(hints.get("instance"))) is None:
        return None
    others = [each for each in router.routers if not isinstance(each, PoolRouter)]
    alias = getattr(ConnectionRouter(others), action)(model, **hints)
    return _alias_in(primary_alias(alias), name)


def _loaded_from(instance: Any) -> str:
    return "" if instance is None else instance._state.db or ""


def _alias_in(fast: str, name: str | None) -> str:
    """Where queries of that database go while `name` is the pool."""
    slow = f"{fast}_{name}"
    if pool_of(slow) is None or _is_mirrored():
        return fast
    # What a transaction has written is seen there alone, and what it reads must hold together.
    if _in_transaction(fast) and not _in_transaction(slow):
        _say_once(name, fast)
        return fast
    return slow


def _is_mirrored() -> bool:
    """Whether these are a project's own tests: their data may be in an open transaction."""
    return in_test_environment() and in_project_tests(get_settings())


def _in_transaction(alias: str) -> bool:
    wrapper = existing_wrapper(alias)
    if wrapper is None or wrapper.connection is None:
        return False
    return wrapper.in_atomic_block or not wrapper.autocommit


def _say_once(name: str | None, fast: str) -> None:
    if f"{fast}_{name}" not in _unheeded:
        _unheeded.add(f"{fast}_{name}")
        logger.warning(
            "using_pool(%r) inside a transaction of %r: the queries stay in the transaction.",
            name,
            fast,
        )
