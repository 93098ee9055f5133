"""Pools route queries on a real database server, limit slow ones and refuse writes."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import psycopg
import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import Group, Permission, User
from django.contrib.contenttypes.models import ContentType
from django.core.management import call_command
from django.db import OperationalError, connections, router, transaction

from django_safe_init import (
    ConfigurationError,
    ReadOnlyPool,
    get_status,
    initialize,
    using_pool,
)
from django_safe_init.pools import SlowPool, postgresql
from tests.processes.pgbouncer import pgbouncer
from tests.support import PATIENCE, Database, wait_until

MODELS = (ContentType, Permission, Group, User)
SLOW = "default_analytics"
#: The application name of the pool's sessions.
NAMED = {"OPTIONS": {"application_name": "analytics"}}
#: A write that begins with another word.
HIDDEN = "WITH gone AS (DELETE FROM auth_group RETURNING id) SELECT * FROM gone"
READ_ONLY = "The pool 'analytics' of the database 'default' is read-only"


def make_tables() -> None:
    with connections["default"].schema_editor() as editor:
        for model in MODELS:
            editor.create_model(model)
    Group.objects.create(name="first")


@pytest.fixture
def pooled(django_database, add_pools) -> Database:
    """A database with the pools `analytics` (one connection) and `exports`, and a group."""
    add_pools(
        analytics=SlowPool(size=1, wait=0.2, settings=NAMED),
        exports=SlowPool(read_only=False, statement_timeout=None),
    )
    make_tables()
    return django_database


def setting(name: str, alias: str = SLOW) -> str:
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT current_setting(%s)", [name])
        return str(cursor.fetchone()[0])


def names() -> set[str]:
    return set(Group.objects.values_list("name", flat=True))


# Sessions


@pytest.mark.usefixtures("pooled")
def test_limits() -> None:
    """Only the pool's sessions have its limits, and not as start-up options."""
    assert setting("statement_timeout") == "5min"
    assert setting("default_transaction_read_only") == "on"
    assert "options" not in connections[SLOW].settings_dict["OPTIONS"]
    assert setting("statement_timeout", "default") == "0"
    assert setting("default_transaction_read_only", "default") == "off"
    assert setting("default_transaction_read_only", "default_exports") == "off"


def test_queries_go_to_the_pool(pooled) -> None:
    """Inside the block, PostgreSQL receives a query in a session of the pool only."""
    assert pooled.backends("application_name = 'analytics'") == []
    with using_pool("analytics"):
        assert names() == {"first"}
        assert Group.objects.get()._state.db == SLOW
    [backend] = pooled.backends("application_name = 'analytics'")
    assert "auth_group" in backend["query"]
    assert Group.objects.get()._state.db == "default"


def test_limits_are_set_once(pooled) -> None:
    """The psycopg pool returns the same session again, whose limits are not set again."""
    assert setting("statement_timeout") == "5min"
    connections[SLOW].close()
    for _ in range(3):
        connections[SLOW].ensure_connection()
        connections[SLOW].close()
    [backend] = pooled.backends("application_name = 'analytics'")
    assert "current_setting" in backend["query"]
    assert setting("statement_timeout") == "5min"


def test_pools_do_not_wait_for_each_other(pooled, in_background) -> None:
    """A full pool delays only its own queries, up to its `wait`."""
    release = threading.Event()

    def occupy() -> None:
        with using_pool("analytics"):
            names()
            release.wait(PATIENCE)

    occupying = in_background(occupy)
    wait_until(lambda: pooled.backends("application_name = 'analytics'"))
    with (
        pytest.raises(OperationalError, match=r"couldn't get a connection after 0\.20"),
        using_pool("analytics"),
    ):
        names()
    assert names() == {"first"}
    release.set()
    occupying.result()


def test_statement_timeout(django_database, add_pools) -> None:
    """PostgreSQL cancels a statement that takes too long."""
    add_pools(analytics=SlowPool(statement_timeout=0.05))
    with (
        connections[SLOW].cursor() as cursor,
        pytest.raises(OperationalError, match="statement timeout"),
    ):
        cursor.execute("SELECT pg_sleep(20)")


def test_without_limits(django_database, add_pools) -> None:
    """A pool without limits does not change its sessions."""
    add_pools(analytics=SlowPool(read_only=False, statement_timeout=None))
    assert setting("statement_timeout") == "0"
    assert setting("default_transaction_read_only") == "off"


def test_without_a_psycopg_pool(django_database, add_pools) -> None:
    """With `size=None` a reconnection opens a new session, which has the limits too."""
    add_pools(analytics=SlowPool(size=None))
    pids = []
    for _ in range(2):
        with connections[SLOW].cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            pids.append(cursor.fetchone())
        assert setting("statement_timeout") == "5min"
        connections[SLOW].close()
    assert pids[0] != pids[1]


def test_without_psycopg(django_database, add_pools, monkeypatch) -> None:
    """A pool whose limits cannot be set is refused, and its connection is closed."""
    add_pools(analytics=SlowPool(size=None))
    monkeypatch.setitem(sys.modules, "django_safe_init.pools.postgresql", None)
    wrapper = connections["default_analytics"]
    with pytest.raises(ConfigurationError, match=r"'django-safe-init\[pools\]'"):
        wrapper.ensure_connection()
    assert wrapper.connection is None


def test_without_autocommit(django_database, add_pools) -> None:
    """Without autocommit, the limits survive the rollback of the first transaction."""
    add_pools(analytics=SlowPool(settings={"AUTOCOMMIT": False}))
    assert setting("statement_timeout") == "5min"
    transaction.rollback(using=SLOW)
    assert setting("statement_timeout") == "5min"
    transaction.rollback(using=SLOW)


@pytest.mark.usefixtures("pooled")
def test_no_session_without_limits(monkeypatch) -> None:
    """If the limits cannot be set, the connection is closed and returned to the pool."""
    with monkeypatch.context() as patched:
        patched.setattr(
            postgresql, "_session_values", lambda postgresql: {"no such setting": "1"}
        )
        with pytest.raises(Exception, match="unrecognized configuration parameter"):
            connections[SLOW].ensure_connection()
        assert connections[SLOW].connection is None
    wait_until(lambda: _connects(SLOW))
    assert setting("statement_timeout") == "5min"


def _connects(alias: str) -> bool:
    try:
        connections[alias].ensure_connection()
    except (
        OperationalError
    ):  # the psycopg pool replaces a lost connection in the background
        return False
    return True


def test_the_guard_survives_other_wrappers(pooled) -> None:
    """A connection that was opened inside `execute_wrapper()` refuses writes afterwards."""

    def other(execute: Any, *arguments: Any) -> Any:
        return execute(*arguments)

    connections[SLOW].close()
    connections[SLOW].execute_wrappers.clear()
    with connections[SLOW].execute_wrapper(other):
        setting("statement_timeout")
    assert other not in connections[SLOW].execute_wrappers
    with pytest.raises(ReadOnlyPool):
        Group.objects.using(SLOW).create(name="second")


# Writes

WRITES: dict[str, Callable[[], object]] = {
    "save": lambda: Group(name="second").save(),
    "bulk_create": lambda: Group.objects.bulk_create([Group(name="second")]),
    "update": lambda: Group.objects.update(name="second"),
    "delete": lambda: Group.objects.all().delete(),
    "add": lambda: Group.objects.get().permissions.add(7),
    "get_or_create": lambda: Group.objects.get_or_create(name="second"),
    "explicitly": lambda: Group.objects.using("default").update(name="second"),
}


@pytest.mark.usefixtures("pooled")
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_writes_are_refused(write) -> None:
    """A write in a read-only block raises `ReadOnlyPool` and is not sent, on any alias."""
    sent: list[str] = []

    def look(execute: Any, statement: str, *arguments: Any) -> Any:
        sent.append(statement)
        return execute(statement, *arguments)

    connections[SLOW].ensure_connection()
    with (
        connections[SLOW].execute_wrapper(look),
        connections["default"].execute_wrapper(look),
        using_pool("analytics"),
        pytest.raises(ReadOnlyPool, match=READ_ONLY),
    ):
        write()
    assert all(each.startswith("SELECT") for each in sent), sent
    assert names() == {"first"}


@pytest.mark.usefixtures("pooled")
def test_writes_that_the_server_refuses() -> None:
    """PostgreSQL refuses writes inside other statements, with the same error."""
    with (
        using_pool("analytics"),
        pytest.raises(ReadOnlyPool, match=READ_ONLY) as caught,
    ):
        list(Group.objects.raw(HIDDEN))
    assert isinstance(
        caught.value.__cause__.__cause__, psycopg.errors.ReadOnlySqlTransaction
    )
    with using_pool("analytics"), pytest.raises(ReadOnlyPool), transaction.atomic(SLOW):
        Group.objects.select_for_update().first()
    assert names() == {"first"}


@pytest.mark.usefixtures("pooled")
def test_writes_past_django() -> None:
    """The session itself is read-only, so COPY without Django's cursor fails too."""
    with (
        connections[SLOW].cursor() as cursor,
        pytest.raises(psycopg.errors.ReadOnlySqlTransaction),
        cursor.copy("COPY auth_group (name) FROM STDIN") as copy,
    ):
        copy.write_row(["second"])


@pytest.mark.usefixtures("pooled")
def test_other_errors() -> None:
    """Other database errors stay Django's."""
    with using_pool("analytics"), pytest.raises(Exception, match="division by zero"):
        list(Group.objects.raw("SELECT 1 / 0 AS id"))


@pytest.mark.usefixtures("pooled")
def test_leaving_the_pool_to_write() -> None:
    """An inner block without a pool writes to the database, as outside."""
    with using_pool("analytics"):
        with using_pool(None):
            Group.objects.create(name="second")
        assert names() == {"first", "second"}


@pytest.mark.usefixtures("pooled")
def test_a_pool_that_may_write() -> None:
    """With `read_only=False`, writes go through the pool too."""
    with using_pool("exports"):
        made = Group.objects.create(name="second")
    assert made._state.db == "default_exports"
    assert names() == {"first", "second"}


# Objects


@pytest.mark.usefixtures("pooled")
def test_saving_afterwards() -> None:
    """An object loaded in the pool is saved, refreshed and deleted on the primary alias."""
    with using_pool("analytics"):
        group = Group.objects.defer("name").get()
    assert group.name == "first"
    group.name = "second"
    group.save()
    assert (group._state.db, names()) == ("default", {"second"})
    with using_pool("analytics"):
        group = Group.objects.get()
        assert group.name == "second"
    group.refresh_from_db()
    group.delete()
    assert names() == set()


@pytest.mark.usefixtures("pooled")
def test_relations_between_pools() -> None:
    """Objects from different pools can be related like any others."""
    kind = ContentType.objects.create(app_label="auth", model="group")
    with using_pool("analytics"):
        group = Group.objects.get()
        slow_kind = ContentType.objects.get()
        unsaved = Permission(content_type=slow_kind, codename="sell", name="Sell")
    unsaved.save()
    group.permissions.add(unsaved)
    assert list(group.permissions.all()) == [unsaved]
    assert kind.permission_set.get() == unsaved
    with using_pool("exports"):
        [read] = Group.objects.prefetch_related("permissions__content_type")
        assert read.permissions.all()[0].content_type == kind


@pytest.mark.usefixtures("pooled")
def test_adding_in_bulk() -> None:
    """A bulk add of objects from two aliases raises an error that names the solution."""
    kind = ContentType.objects.create(app_label="auth", model="group")
    Permission.objects.create(content_type=kind, codename="sell", name="Sell")
    with using_pool("analytics"):
        loaded = Permission.objects.get()
    with pytest.raises(ValueError, match="bulk=False"):
        kind.permission_set.add(loaded)
    kind.permission_set.add(loaded, bulk=False)
    assert loaded._state.db == "default"


# Transactions


@pytest.mark.usefixtures("pooled")
def test_a_transaction_stays_where_it_is(caplog) -> None:
    """Inside a transaction the block reads the transaction's writes, and logs that once."""
    with transaction.atomic():
        Group.objects.create(name="second")
        for _ in range(2):
            with using_pool("analytics"):
                assert names() == {"first", "second"}
                assert router.db_for_read(Group) == "default"
    lines = [record for record in caplog.records if record.name == "django_safe_init"]
    assert [(line.levelno, line.getMessage()) for line in lines] == [
        (
            logging.WARNING,
            "using_pool('analytics') inside a transaction of 'default': the queries stay in "
            "the transaction.",
        )
    ]


@pytest.mark.usefixtures("pooled")
def test_writes_in_a_transaction_are_refused() -> None:
    """A read-only block refuses writes on each alias of its database."""
    with transaction.atomic():
        with using_pool("analytics"), pytest.raises(ReadOnlyPool, match=READ_ONLY):
            Group.objects.update(name="second")
        transaction.set_rollback(False)
        Group.objects.create(name="third")
    assert names() == {"first", "third"}


@pytest.mark.usefixtures("pooled")
def test_a_transaction_of_the_pool() -> None:
    """A transaction on the pool's alias keeps the block's reads consistent."""
    with using_pool("analytics"), transaction.atomic(SLOW):
        with connections[SLOW].cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        assert names() == {"first"}
        with using_pool(None):
            Group.objects.create(name="second")
        assert names() == {"first"}
        with transaction.atomic():
            assert names() == {"first"}
    assert names() == {"first", "second"}


@pytest.mark.usefixtures("pooled")
def test_a_transaction_by_hand() -> None:
    """Queries stay in a transaction that was opened with `set_autocommit(False)`."""
    transaction.set_autocommit(False)
    try:
        with using_pool("analytics"):
            assert router.db_for_read(Group) == "default"
        transaction.rollback()
    finally:
        transaction.set_autocommit(True)


# Threads and event loops


@pytest.mark.usefixtures("pooled")
def test_in_an_event_loop() -> None:
    """The ORM's coroutines, and sync code that they call, use the pool of their task."""

    @using_pool("analytics")
    async def report() -> list[str | None]:
        first = await Group.objects.aget(name="first")
        other = await sync_to_async(Group.objects.get)(name="first")
        found = [group async for group in Group.objects.all()]
        return [each._state.db for each in (first, other, *found)]

    async def quick() -> str | None:
        return (await Group.objects.aget())._state.db

    async def refused() -> None:
        with using_pool("analytics"):
            await Group.objects.acreate(name="second")

    async def main() -> list[Any]:
        try:
            together = await asyncio.gather(report(), quick(), report())
            with pytest.raises(ReadOnlyPool):
                await refused()
            return together
        finally:
            await sync_to_async(connections.close_all)()

    assert asyncio.run(main()) == [[SLOW] * 3, "default", [SLOW] * 3]


@pytest.mark.usefixtures("pooled")
def test_in_threads() -> None:
    """A thread with a copy of the context uses the pool on a separate connection."""

    def read() -> str | None:
        try:
            return Group.objects.get()._state.db
        finally:
            connections.close_all()

    with using_pool("analytics"), ThreadPoolExecutor(1) as executor:
        assert executor.submit(copy_context().run, read).result(PATIENCE) == SLOW
        assert executor.submit(read).result(PATIENCE) == "default"


# Initialization


def test_an_initialization_uses_no_pool(pooled, small_shop) -> None:
    """`safe_migrate` initializes the database once, and opens no session of a pool."""
    seen: list[Any] = []
    small_shop.run(
        "0003_look",
        lambda connection: seen.append(
            (connection.alias, pooled.backends("application_name = 'analytics'"))
        ),
    )
    call_command("safe_migrate")
    assert seen == [("default", [])]
    assert pooled.applied_once() == [
        "shop.0001_initial",
        "shop.0002_sale",
        "shop.0003_look",
    ]
    assert len(pooled.runs()) == 1
    assert initialize().role == "none"
    call_command("safe_init_status")
    assert get_status().ready
    assert pooled.backends("application_name = 'analytics'") == []


def test_dumpdata(pooled, capsys) -> None:
    """The primary alias dumps the data, also inside the block; the pool's alias dumps none."""
    pooled.rows("INSERT INTO auth_group (name) VALUES ('second')")
    call_command("dumpdata", "auth.group")
    assert "second" in capsys.readouterr().out
    call_command("dumpdata", "auth.group", database=SLOW)
    assert capsys.readouterr().out.strip() == "[]"


# Poolers


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_behind_pgbouncer(django_database, add_pools, log_in_as, mode) -> None:
    """Each transaction has the limits, and other clients of the same session never have them."""
    make_tables()
    with pgbouncer(django_database, mode) as pooler:
        log_in_as(PORT=str(pooler.parameters["port"]))
        add_pools(analytics=SlowPool(size=1))
        try:
            _look_behind_a_pooler()
        finally:
            connections[SLOW].close()
            connections[SLOW].close_pool()
            connections["default"].close()


def _look_behind_a_pooler() -> None:
    assert setting("statement_timeout") == "5min"
    assert setting("transaction_read_only") == "on"
    with using_pool("analytics"):
        assert names() == {"first"}
        with pytest.raises(ReadOnlyPool):
            Group.objects.update(name="second")
        with pytest.raises(ReadOnlyPool):
            list(Group.objects.raw(HIDDEN))
        with transaction.atomic(SLOW):
            with connections[SLOW].cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            assert setting("statement_timeout") == "5min"
            assert setting("transaction_read_only") == "on"
    # PgBouncer hands out the session that was freed last.
    for _ in range(5):
        assert setting("statement_timeout", "default") == "0"
        assert setting("default_transaction_read_only", "default") == "off"
    connections[SLOW].close()
    assert setting("statement_timeout") == "5min"
    Group.objects.update(name="second")


# SQLite


def test_sqlite(lite, add_pools) -> None:
    """On SQLite the same code works and also refuses writes."""
    add_pools(exports=SlowPool(read_only=False))
    make_tables()
    with using_pool("analytics"):
        assert Group.objects.get()._state.db == SLOW
        with pytest.raises(ReadOnlyPool, match=READ_ONLY):
            Group.objects.update(name="second")
        with pytest.raises(ReadOnlyPool), connections[SLOW].cursor() as cursor:
            cursor.execute("WITH one AS (SELECT 1) DELETE FROM auth_group")
    with using_pool("exports"):
        Group.objects.update(name="second")
    assert names() == {"second"}
