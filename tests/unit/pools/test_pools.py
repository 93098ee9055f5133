"""Pools configure DATABASES and route queries, without a database."""

from __future__ import annotations

import asyncio
import contextvars
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.contrib.auth.models import Group, Permission, User
from django.core.checks import ERROR, WARNING, run_checks
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.db import connections, router
from django.utils.decorators import method_decorator

from django_safe_init import ConfigurationError, get_status, initialize, using_pool
from django_safe_init.core.databases import check_alias
from django_safe_init.pools import PoolRouter, SlowPool, pools
from django_safe_init.pools.router import ROUTER, current_pool
from tests.support import PATIENCE

POSTGRESQL = {"ENGINE": "django.db.backends.postgresql", "NAME": "shop", "HOST": "db"}
SQLITE = {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3"}


# Entries of DATABASES


def test_entries() -> None:
    """The database keeps its entry; the slow pool has a psycopg pool and mirrors it in tests."""
    made = pools(POSTGRESQL)
    assert list(made) == ["default", "default_analytics"]
    assert made["default"] == POSTGRESQL
    slow = made["default_analytics"]
    assert {name: slow[name] for name in POSTGRESQL} == POSTGRESQL
    pool = {"min_size": 0, "max_size": 2, "timeout": 30}
    assert slow["OPTIONS"] == {"pool": pool}
    assert slow["TEST"] == {"MIRROR": "default"}
    assert slow["CONN_MAX_AGE"] == 0


def test_further_pools_of_another_alias() -> None:
    """Each keyword adds a slow pool; `analytics=None` omits the default one."""
    made = pools(POSTGRESQL, "shop", analytics=None, exports=SlowPool(size=7))
    assert list(made) == ["shop", "shop_exports"]
    assert made["shop_exports"]["OPTIONS"]["pool"]["max_size"] == 7
    assert made["shop_exports"]["TEST"] == {"MIRROR": "shop"}


def test_inherited_settings() -> None:
    """A slow pool has the database's settings except its psycopg pool and ATOMIC_REQUESTS."""
    database = {
        **POSTGRESQL,
        "ATOMIC_REQUESTS": True,
        "CONN_MAX_AGE": 60,
        "CONN_HEALTH_CHECKS": True,
        "OPTIONS": {"sslmode": "require", "pool": {"max_size": 9, "max_idle": 60}},
    }
    slow = pools(database)["default_analytics"]
    assert slow["OPTIONS"]["sslmode"] == "require"
    assert slow["OPTIONS"]["pool"]["max_idle"] == 60
    assert slow["OPTIONS"]["pool"]["max_size"] == 2
    assert slow["CONN_HEALTH_CHECKS"]
    assert not slow["ATOMIC_REQUESTS"]
    assert database["OPTIONS"]["pool"] == {"max_size": 9, "max_idle": 60}


def test_different_settings() -> None:
    """A slow pool may use another host, such as a standby."""
    settings = {"HOST": "standby", "OPTIONS": {"application_name": "reports"}}
    made = pools(POSTGRESQL, analytics=SlowPool(settings=settings))
    slow = made["default_analytics"]
    assert slow["HOST"] == "standby"
    assert slow["OPTIONS"]["application_name"] == "reports"
    assert slow["OPTIONS"]["pool"]["max_size"] == 2
    assert made["default"] == POSTGRESQL


def test_without_a_psycopg_pool() -> None:
    """With `size=None`, Django opens one connection for each thread."""
    database = {**POSTGRESQL, "CONN_MAX_AGE": 60, "OPTIONS": {"pool": True}}
    slow = pools(database, analytics=SlowPool(size=None))["default_analytics"]
    assert slow["OPTIONS"] == {}
    assert slow["CONN_MAX_AGE"] == 60


def test_entries_of_sqlite() -> None:
    """SQLite has the same aliases and no psycopg pool, so that development works."""
    slow = pools(SQLITE)["default_analytics"]
    assert (slow["NAME"], slow["OPTIONS"]) == ("db.sqlite3", {})


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: SlowPool(size=0),
            "SlowPool(size=0): use a positive integer, or None.",
        ),
        (lambda: SlowPool(size=True), "SlowPool(size=True)"),
        (lambda: SlowPool(statement_timeout=0), "SlowPool(statement_timeout=0)"),
        (lambda: SlowPool(statement_timeout=1e9), "a positive number of seconds"),
        (lambda: SlowPool(wait="1 s"), "SlowPool(wait='1 s')"),
        (lambda: pools(POSTGRESQL, reports={"size": 2}), "use reports=SlowPool(...)."),
    ],
)
def test_invalid_arguments(make: Callable[[], Any], text: str) -> None:
    """An invalid argument raises `ImproperlyConfigured` with the valid values."""
    with pytest.raises(ImproperlyConfigured) as caught:
        make()
    assert text in str(caught.value)


def test_import_in_a_settings_file() -> None:
    """The module and the function need no settings."""
    code = (
        "from django.conf import settings\n"
        "from django_safe_init.pools import SlowPool, pools\n"
        "pools({'ENGINE': 'django.db.backends.postgresql'}, reports=SlowPool())\n"
        "assert not settings.configured\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE)


# Blocks


@pytest.fixture
def pooled(add_pools: Callable[..., None], settings: Any) -> None:
    """A database with the pools `analytics` and `exports`, which is never queried."""
    add_pools(exports=SlowPool(read_only=False))
    settings.SAFE_INIT = {"IN_TESTS": True}


def reads(model: type = Group, **hints: Any) -> str:
    return router.db_for_read(model, **hints)


@pytest.mark.usefixtures("pooled")
def test_blocks_nest() -> None:
    """The innermost block decides, None is the primary alias, and leaving restores the outer."""
    seen = [reads()]
    with using_pool("analytics"):
        seen.append(reads())
        with using_pool("exports"):
            seen.append(reads())
            with using_pool(None):
                seen.append(reads())
        seen.append(reads())
    seen.append(reads())
    slow = "default_analytics"
    assert seen == ["default", slow, "default_exports", "default", slow, "default"]


@pytest.mark.usefixtures("pooled")
def test_an_error_leaves_the_block() -> None:
    """An exception ends the block."""
    with pytest.raises(ZeroDivisionError), using_pool("analytics"):
        _ = 1 / 0
    assert current_pool() is None


@pytest.mark.usefixtures("pooled")
def test_one_object_is_reentrant() -> None:
    """One object may be entered again inside its own block, also as a decorator."""
    analytics = using_pool("analytics")

    @analytics
    def depth(levels: int) -> int:
        assert reads() == "default_analytics"
        with analytics:
            return depth(levels - 1) + 1 if levels else 0

    assert depth(3) == 3
    assert current_pool() is None


@pytest.mark.usefixtures("pooled")
def test_one_object_in_many_threads() -> None:
    """Threads that use one object at the same time do not affect each other."""
    analytics = using_pool("analytics")
    barrier = threading.Barrier(8, timeout=20)

    def look(number: int) -> tuple[str | None, str | None]:
        if number % 2:
            barrier.wait()
            return current_pool(), None
        with analytics:
            barrier.wait()
            inside = current_pool()
        return inside, current_pool()

    with ThreadPoolExecutor(8) as executor:
        assert (
            list(executor.map(look, range(8)))
            == [
                ("analytics", None),
                (None, None),
            ]
            * 4
        )


@pytest.mark.usefixtures("pooled")
def test_threads() -> None:
    """A thread is in the block if it was started with a copy of the context."""
    with using_pool("analytics"), ThreadPoolExecutor(1) as executor:
        context = contextvars.copy_context()
        assert (
            executor.submit(context.run, reads).result(PATIENCE) == "default_analytics"
        )
        assert executor.submit(reads).result(PATIENCE) == "default"


@pytest.mark.usefixtures("pooled")
def test_decorated_functions() -> None:
    """A function, a coroutine function and a method of a view run in the pool."""

    @using_pool("analytics")
    def report(number: int) -> tuple[int, str]:
        """Its name and text stay."""
        return number, reads()

    @using_pool("analytics")
    async def areport() -> str:
        await asyncio.sleep(0)
        return reads()

    @method_decorator(using_pool("analytics"), name="get")
    class View:
        def get(self) -> str:
            return reads()

    assert report(3) == (3, "default_analytics")
    assert (report.__name__, report.__doc__) == ("report", "Its name and text stay.")
    assert asyncio.run(areport()) == "default_analytics"
    assert View().get() == "default_analytics"


@pytest.mark.usefixtures("pooled")
def test_tasks() -> None:
    """Concurrent tasks each have their own pool; a task that starts in a block inherits it."""

    async def look(name: str | None) -> str:
        with using_pool(name):
            await asyncio.sleep(0)
            return await asyncio.create_task(sync_to_async(reads)())

    async def main() -> list[str]:
        names = ["analytics", None, "exports"] * 3
        return await asyncio.gather(*map(look, names))

    found = ["default_analytics", "default", "default_exports"] * 3
    assert asyncio.run(main()) == found


@pytest.mark.usefixtures("pooled")
def test_across_asgiref() -> None:
    """The block extends through `sync_to_async` and `async_to_sync`, in both directions."""

    async def inner() -> str:
        with using_pool("exports"):
            pass
        return await sync_to_async(reads)()

    async def outer() -> list[str]:
        found = [await sync_to_async(reads)()]
        with using_pool("analytics"):
            found.append(await sync_to_async(lambda: async_to_sync(inner)())())
            found.append(reads())
        return [*found, await sync_to_async(reads)()]

    assert asyncio.run(outer()) == [
        "default",
        "default_analytics",
        "default_analytics",
        "default",
    ]


def test_generators() -> None:
    """A generator is refused, because its caller would run inside the block between two items."""

    def rows() -> Iterator[int]:
        yield 1

    async def arows() -> Any:
        yield 1

    assert list(rows()) == [1]
    for function in (rows, arows):
        with pytest.raises(ConfigurationError, match="Use it around the loop"):
            using_pool("analytics")(function)


@pytest.mark.usefixtures("pooled")
def test_unknown_pool() -> None:
    """The name of an unknown pool raises an error that lists the pools."""
    with (
        pytest.raises(ConfigurationError, match="Use one of: analytics, exports"),
        using_pool("reports"),
    ):
        pass
    assert current_pool() is None


def test_no_pools() -> None:
    """The error explains how to add a pool if no database has one."""
    with (
        pytest.raises(ConfigurationError, match=r"Add it with pools\(\)"),
        using_pool("analytics"),
    ):
        pass


@pytest.mark.usefixtures("pooled")
@pytest.mark.parametrize(
    "routers", [[], ["tests.unit.pools.test_pools.Elsewhere", ROUTER]]
)
def test_without_the_router(settings: Any, routers: list[str]) -> None:
    """The block raises an error, and a system check fails, unless the router comes first."""
    settings.DATABASE_ROUTERS = routers
    with (
        pytest.raises(ConfigurationError, match="DATABASE_ROUTERS"),
        using_pool("analytics"),
    ):
        pass
    [message] = run_checks(tags=["safe_init"])
    assert (message.id, message.level) == ("safe_init.E004", ERROR)
    assert ROUTER in message.hint


# Routes


class Elsewhere:
    """A router that sends users to `exports` and returns None for other models."""

    def db_for_read(self, model: type, **hints: Any) -> str | None:
        return "default_exports" if model is User else None

    def allow_relation(self, one: Any, other: Any, **hints: Any) -> bool:
        return False


def loaded(model: type, alias: str | None) -> Any:
    """Return an object as if it was loaded through that alias."""
    made = model()
    made._state.db = alias
    return made


@pytest.mark.usefixtures("pooled")
def test_other_routers(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other routers select the database of a model; the pool belongs to that database."""
    settings.DATABASE_ROUTERS = [ROUTER, f"{__name__}.Elsewhere"]
    with using_pool("analytics"):
        assert reads(User) == "default_analytics"
    monkeypatch.setitem(connections.settings, "other", connections.settings["default"])
    monkeypatch.setattr(Elsewhere, "db_for_read", lambda *args, **hints: "other")
    with using_pool("analytics"):
        assert reads(User) == "other"


@pytest.mark.usefixtures("pooled")
def test_objects_outside_the_block() -> None:
    """An object that was loaded through a pool uses the primary alias after the block."""
    group = loaded(Group, "default_analytics")
    assert reads(instance=group) == "default"
    assert router.db_for_write(Group, instance=group) == "default"
    assert reads(instance=loaded(Group, None)) == "default"
    with using_pool("analytics"):
        assert router.db_for_write(Group, instance=group) == "default_analytics"
    with using_pool("exports"):
        assert reads(instance=group) == "default_exports"


@pytest.mark.usefixtures("pooled")
def test_relations(settings: Any) -> None:
    """Relations between pools of one database are allowed; the other routers decide the rest."""
    group, permission = (
        loaded(Group, "default_analytics"),
        loaded(Permission, "default"),
    )
    assert router.allow_relation(group, permission)
    assert not router.allow_relation(group, loaded(Permission, "other"))
    assert not router.allow_relation(group, loaded(Permission, None))
    settings.DATABASE_ROUTERS = [ROUTER, f"{__name__}.Elsewhere"]
    assert router.allow_relation(group, permission)
    assert not router.allow_relation(group, group)


@pytest.mark.usefixtures("pooled")
def test_pools_are_not_migrated() -> None:
    """The alias of a pool migrates, dumps and flushes nothing."""
    assert not router.allow_migrate_model("default_analytics", Group)
    assert router.allow_migrate_model("default", Group)
    assert PoolRouter().allow_migrate("default", "auth") is None


@pytest.mark.usefixtures("pooled")
def test_in_tests_of_a_project(settings: Any) -> None:
    """In a project's tests, all queries use the primary alias, like queries of a mirror."""
    settings.SAFE_INIT = {}
    with using_pool("analytics"):
        assert (reads(), router.db_for_write(Group)) == ("default", "default")


# Everything else


@pytest.mark.usefixtures("pooled")
def test_a_pool_is_not_initialized() -> None:
    """Each entry point refuses the alias of a pool and names the alias to use."""
    text = "'default_analytics' is a pool of the database 'default'. Use 'default'"
    for call in (check_alias, get_status, initialize):
        with pytest.raises(ConfigurationError, match=text):
            call("default_analytics")
    for command in ("safe_migrate", "migrate"):
        with pytest.raises(CommandError, match=text):
            call_command(command, "--database=default_analytics")


@pytest.mark.usefixtures("pooled")
@pytest.mark.parametrize(
    "value",
    [
        {"DATABASES": ["default", "default_analytics"]},
        {"DIRECT": {"default_analytics": {}}},
    ],
)
def test_a_pool_in_the_settings(settings: Any, value: dict[str, Any]) -> None:
    """E002 names a pool in SAFE_INIT and the database to use instead."""
    settings.SAFE_INIT = value
    [message] = run_checks(tags=["safe_init"])
    assert (message.id, message.level) == ("safe_init.E002", ERROR)
    assert "'default_analytics', which is a pool of the database" in message.msg
    assert message.hint == "Use 'default': it is what is initialized."


@pytest.mark.usefixtures("pooled")
def test_atomic_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """W006 warns that requests are transactions, so their queries never use a pool."""
    assert run_checks(tags=["safe_init"]) == []
    monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", True)
    [message] = run_checks(tags=["safe_init"])
    assert (message.id, message.level) == ("safe_init.W006", WARNING)
    assert "non_atomic_requests" in message.hint


@pytest.mark.usefixtures("pooled")
def test_initialization_inside_a_block() -> None:
    """An initialization inside a block is refused, because its migrations would use the pool."""
    with (
        using_pool("analytics"),
        pytest.raises(ConfigurationError, match=r"inside using_pool\(\)"),
    ):
        initialize()
