"""Sessions that the project's backend class, settings and receivers made."""

from __future__ import annotations

import json
import queue
from collections import UserString
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from django.core.management import call_command
from django.db import connection, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.postgresql.psycopg_any import get_adapters_template
from django.db.backends.signals import connection_created
from psycopg.adapt import Loader
from psycopg.types.json import set_json_loads

from django_safe_init import (
    ConfigurationError,
    InitializationFailed,
    UnsafeConnection,
    get_status,
    initialize,
)
from django_safe_init.backends.postgresql.lock_keys import work_key
from django_safe_init.management.commands.safe_migrate import Command
from tests.database.engine.base import DatabaseWrapper
from tests.support import wait_until

ENGINE = "tests.database.engine"
Receiver = Callable[..., Any]


@pytest.fixture
def receive() -> Iterator[Callable[[Receiver], None]]:
    """Yield a function that adds receivers of `connection_created` for the test."""
    added: list[Receiver] = []

    def add(receiver: Receiver) -> None:
        connections["default"].close()
        connection_created.connect(receiver, weak=False)
        added.append(receiver)

    yield add
    for each in added:
        connection_created.disconnect(each)


def execute(statement: str) -> Receiver:
    """Return a receiver that executes the statement on each new connection."""

    def receiver(connection: BaseDatabaseWrapper, **kwargs: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute(statement)

    return receiver


@pytest.fixture
def connect_with(log_in_as, monkeypatch) -> Callable[..., None]:
    """Return a function that lets `default` connect with another function."""

    def change(connect: Callable[..., Any], **options: Any) -> None:
        monkeypatch.setattr(DatabaseWrapper, "connect_with", staticmethod(connect))
        log_in_as(ENGINE=ENGINE, OPTIONS=options)

    before = connections.settings["default"]["ENGINE"]
    yield change
    log_in_as(ENGINE=before, OPTIONS={})


# The same view of the database


def tables_in(database, schema: str) -> set[str]:
    rows = database.rows(
        "SELECT tablename FROM pg_tables WHERE schemaname = %s", schema
    )
    return {row["tablename"] for row in rows}


def test_the_search_path_of_a_receiver(
    django_database, small_shop, receive, command_line
) -> None:
    """A second environment in another schema is initialized, although `public` is ready."""
    assert initialize().role == "leader"
    django_database.rows("CREATE SCHEMA app")
    receive(execute("SET search_path TO app"))
    before = get_status()
    assert (before.state, before.ready) == ("uninitialized", False)
    assert before.pending == ("shop.0001_initial", "shop.0002_sale")
    ended = command_line(Command, "safe_migrate", "--json")
    assert (ended.code, ended.json["role"]) == (0, "leader"), ended.stdout
    created = {"django_migrations", "shop_product", "shop_sale"}
    status = {"django_safe_init_run", "django_safe_init_step"}
    assert created | status <= tables_in(django_database, "app")
    assert get_status().ready
    assert initialize().role == "none"


def test_a_project_without_autocommit(
    django_database, log_in_as, small_shop, receive
) -> None:
    """Receivers of a project that sets AUTOCOMMIT to False have the same effect."""
    initialize()
    django_database.rows("CREATE SCHEMA app")
    receive(execute("SET search_path TO app"))
    log_in_as(AUTOCOMMIT=False)
    try:
        assert get_status().state == "uninitialized"
    finally:
        log_in_as(AUTOCOMMIT=True)


@pytest.mark.parametrize("owner", ["ROLE postgres IN DATABASE", "DATABASE"])
def test_the_search_path_of_a_role(django_database, small_shop, owner) -> None:
    """The search path of a role and of a database decides what is ready, too."""
    initialize()
    django_database.rows("CREATE SCHEMA app")
    django_database.rows(f"ALTER {owner} {django_database.name} SET search_path = app")
    connections["default"].close()
    assert not get_status().ready
    assert initialize().role == "leader"
    assert "shop_product" in tables_in(django_database, "app")


def test_a_path_of_two_schemas(django_database, small_shop, receive) -> None:
    """As in Django, a table in a later schema of the path counts."""
    initialize()
    django_database.rows("CREATE SCHEMA app")
    receive(execute("SET search_path TO app, public"))
    assert get_status().ready
    assert initialize().role == "none"
    assert tables_in(django_database, "app") == set()


def test_a_schema_that_appears(django_database, small_shop, receive, open_session):
    """A session finds the tables that a leader creates later, in a schema of its path."""
    receive(execute("SET search_path TO app"))
    session = open_session()
    assert session.tables.existing("django_migrations") is None
    django_database.rows("CREATE SCHEMA app")
    initialize()
    session.locate_missing_tables()
    tables = session.tables
    assert tables.existing("django_migrations") == "app.django_migrations"
    assert tables.existing("django_safe_init_run") == "app.django_safe_init_run"


def test_a_temporary_table(django_database, small_shop, receive) -> None:
    """A temporary table with the name of a real one changes no answer."""
    initialize()
    receive(
        execute(
            "CREATE TEMP TABLE IF NOT EXISTS django_migrations (app text, name text);"
            "CREATE TEMP TABLE IF NOT EXISTS django_safe_init_run (id int)"
        )
    )
    assert get_status().ready
    assert get_status().run is not None


# The project's own connections


def test_a_backend_with_options_of_its_own(
    django_database, small_shop, connect_with
) -> None:
    """A backend that removes its own keys from OPTIONS and from the parameters works."""

    def connect(wrapper: DatabaseWrapper, params: dict[str, Any]) -> Any:
        wrapper.settings_dict["OPTIONS"].pop("MAX_CONNS", None)
        params.pop("MAX_CONNS", None)
        params.pop("REUSE", None)
        return psycopg.connect(**params)

    connect_with(connect, MAX_CONNS=4, REUSE={"a": [1]})
    before = json.dumps(connections.settings["default"]["OPTIONS"])
    assert initialize().role == "leader"
    assert initialize().role == "none"
    assert get_status().ready
    call_command("safe_init_validate")
    assert json.dumps(connections.settings["default"]["OPTIONS"]) == before


def test_a_backend_with_pools_by_alias(
    django_database, small_shop, connect_with, monkeypatch
) -> None:
    """The pool of a backend that keeps one for each alias neither gives nor gets a connection."""
    pools: dict[str, queue.Queue[Any]] = {}

    def connect(wrapper: DatabaseWrapper, params: dict[str, Any]) -> Any:
        params.pop("MAX_CONNS")
        pool = wrapper._connection_pools.setdefault(wrapper.alias, queue.Queue())
        return psycopg.connect(**params) if pool.empty() else pool.get_nowait()

    monkeypatch.setattr(DatabaseWrapper, "_connection_pools", pools)
    connect_with(connect, MAX_CONNS=1)
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    raw, connection.connection = connection.connection, None
    pools["default"].put(raw)
    assert initialize().role == "leader"
    assert get_status().ready
    assert pools["default"].get_nowait() is raw
    raw.close()
    wait_until(lambda: not django_database.backends())


def test_a_backend_that_keeps_connections(
    django_database, small_shop, connect_with, monkeypatch
) -> None:
    """The connection of a run ends with the run, also if the backend keeps it open."""
    kept: list[Any] = []

    def close(wrapper: DatabaseWrapper) -> None:
        kept.append(wrapper.connection)
        wrapper.connection = None

    connect_with(lambda wrapper, params: psycopg.connect(**params))
    with monkeypatch.context() as patched:
        patched.setattr(DatabaseWrapper, "close", close)
        assert initialize().role == "leader"
    assert [raw.closed for raw in kept if raw is not None] == [True]
    wait_until(lambda: not django_database.holders(work_key()))


class Proxy:
    """An object of a pool that stands for a connection."""

    def __init__(self, raw: Any) -> None:
        self._inner = raw

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class TracingProxy(Proxy):
    """A transparent proxy of a tracing tool."""

    @property
    def __wrapped__(self) -> Any:
        return self._inner


def test_a_tracing_tool(django_database, small_shop, connect_with, monkeypatch) -> None:
    """The connection behind a transparent proxy is used."""
    connect_with(lambda _, params: TracingProxy(psycopg.connect(**params)))
    assert get_status().state == "uninitialized"


def refused(command_line) -> str:
    """Return the error of `safe_migrate`, which ends with exit code 2."""
    ended = command_line(Command, "safe_migrate", "--json")
    assert (ended.code, ended.json["result"]) == (2, "unsafe")
    assert "needs a connection that nothing else uses" in ended.json["error"]
    with pytest.raises(UnsafeConnection):
        get_status()
    return ended.json["error"]


def test_a_proxy(django_database, small_shop, connect_with, command_line) -> None:
    """A proxy object of a pool is refused, and given back."""
    connect_with(lambda _, params: Proxy(psycopg.connect(**params)))
    assert "a Proxy instead of a connection of psycopg" in refused(command_line)


def test_a_pool(django_database, small_shop, connect_with, command_line) -> None:
    """A connection of a psycopg pool is refused, and goes back to its pool."""
    psycopg_pool = pytest.importorskip("psycopg_pool")
    pool = psycopg_pool.ConnectionPool(
        kwargs=django_database.parameters, min_size=1, max_size=1, open=True
    )
    with pool:
        connect_with(lambda wrapper, params: pool.getconn(timeout=20))
        assert "a connection of a pool" in refused(command_line)


def test_a_connection_that_is_in_use(django_database, small_shop, connect_with) -> None:
    """A connection that the project uses, or used before, is refused and stays open."""
    made: list[Any] = []

    def connect(wrapper: DatabaseWrapper, params: dict[str, Any]) -> Any:
        made.extend([] if made else [psycopg.connect(**params)])
        return made[0]

    connect_with(connect)
    connection.ensure_connection()
    [raw] = made
    with pytest.raises(UnsafeConnection, match="that it has given out before"):
        initialize()
    connection.connection = None
    with pytest.raises(UnsafeConnection, match="that it has given out before"):
        get_status()
    assert not raw.closed
    raw.close()


def test_a_connection_that_a_backend_keeps(
    django_database, small_shop, connect_with, receive
) -> None:
    """A backend that gives out one connection again and again, as Django expects, is refused."""
    made: list[Any] = []

    def keep(wrapper: DatabaseWrapper, params: dict[str, Any]) -> Any:
        if not made or made[0].closed:
            made[:] = [super(DatabaseWrapper, wrapper).get_new_connection(params)]
        return made[0]

    connect_with(keep)
    receive(execute("SELECT 1"))
    with pytest.raises(UnsafeConnection, match="that it has given out before"):
        initialize()


def test_a_shared_session(django_database, connect_with, open_session) -> None:
    """A connection that another session of this package has is refused."""
    made: list[Any] = []

    def connect(wrapper: DatabaseWrapper, params: dict[str, Any]) -> Any:
        made.extend([] if made else [psycopg.connect(**params)])
        return made[0]

    connect_with(connect)
    session = open_session()
    with pytest.raises(UnsafeConnection, match="given out before"):
        open_session()
    assert session.rows("SELECT 1") == [(1,)]


@pytest.mark.parametrize(
    ("receiver", "text"),
    [
        (execute("SELECT no_such_column"), 'column "no_such_column" does not exist'),
        (lambda **kwargs: 1 / 0, "ZeroDivisionError: division by zero"),
    ],
)
def test_a_receiver_that_fails(
    django_database, small_shop, receive, command_line, receiver, text
) -> None:
    """A receiver that raises is an error of the configuration, and leaves no connection."""
    receive(receiver)
    ended = command_line(Command, "safe_migrate", "--json")
    assert (ended.code, ended.json["result"]) == (2, "usage")
    assert text in ended.json["error"]
    with pytest.raises(ConfigurationError, match="cannot be used"):
        get_status()


def test_a_receiver_that_loses_its_connection(
    django_database, small_shop, receive, settings
) -> None:
    """A connection that ends while receivers run is tried again."""
    settings.SAFE_INIT = {**settings.SAFE_INIT, "CONNECT_ATTEMPTS": 3}
    left = ["close", "terminate"]

    def lose(connection: BaseDatabaseWrapper, **kwargs: Any) -> None:
        if not left:
            return
        if left.pop() == "close":
            connection.connection.close()
        else:
            pid = connection.connection.info.backend_pid
            django_database.rows("SELECT pg_terminate_backend(%s, 20000)", pid)
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")

    receive(lose)
    assert initialize().role == "leader"
    assert left == []


def test_a_receiver_in_a_run(django_database, small_shop, receive) -> None:
    """A session that opens in a migration is not a connection of the run."""
    small_shop.run("0003_look", lambda connection: get_status())
    assert initialize().role == "leader"
    wait_until(lambda: not django_database.backends())


# Global loaders, adapters and factories


class _Text(Loader):
    def load(self, data: Any) -> Any:
        return f"<{bytes(data).decode()}>"


class _UserText(Loader):
    def load(self, data: Any) -> Any:
        return UserString(bytes(data).decode())


class _Time(_Text):
    timezone = None  # Django reads it


def odd_adapters(adapters: Any) -> None:
    """Register loaders that return other types than psycopg's."""
    for name in ("int2", "int4", "int8", "float8", "numeric", "bool", "json", "jsonb"):
        adapters.register_loader(name, _Text)
    for name in ("text", "varchar", "name"):
        adapters.register_loader(name, _UserText)
    adapters.register_loader("timestamptz", _Time)


@pytest.fixture
def odd_project(request, receive, monkeypatch) -> Iterator[None]:
    """Let a project change what psycopg returns, in one of several ways."""
    kind = request.param
    if kind == "json":
        set_json_loads(lambda value: value)
    elif kind == "global":
        for table in ("_loaders", "_own_loaders"):
            copies = [
                each.copy() if isinstance(each, dict) else each
                for each in getattr(psycopg.adapters, table)
            ]
            monkeypatch.setattr(psycopg.adapters, table, copies)
        odd_adapters(psycopg.adapters)
    else:
        receive(lambda connection, **kwargs: change(kind, connection.connection))
    get_adapters_template.cache_clear()
    yield
    set_json_loads(json.loads)
    get_adapters_template.cache_clear()


def change(kind: str, raw: Any) -> None:
    if kind == "loaders":
        odd_adapters(raw.adapters)
    elif kind == "row_factory":
        raw.row_factory = psycopg.rows.namedtuple_row
    else:
        raw.cursor_factory = psycopg.Cursor


@pytest.mark.parametrize(
    "odd_project",
    ["json", "global", "loaders", "row_factory", "cursor_factory"],
    indirect=True,
)
def test_adapters_of_the_project(
    django_database, shop, odd_project, command_line, open_session
) -> None:
    """Loaders and factories of the project do not reach this package's own queries."""
    from django_safe_init.management.commands.safe_init_status import Command as Status
    from django_safe_init.management.commands.safe_init_unlock import Command as Unlock
    from django_safe_init.management.commands.safe_init_validate import (
        Command as Validate,
    )

    shop.write("0001_initial", "migrations.RunSQL('CREATE TABLE a (i int)')")
    ended = command_line(Command, "safe_migrate", "--json")
    assert (ended.code, ended.json["role"]) == (0, "leader"), (
        ended.stdout + ended.stderr
    )
    assert command_line(Command, "safe_migrate", "--json").json["role"] == "none"
    status = command_line(Status, "safe_init_status", "--json", "--history", "3")
    assert (status.code, status.json["state"]) == (0, "ready")
    assert command_line(Validate, "safe_init_validate", "--json").code == 0
    assert command_line(Unlock, "safe_init_unlock", "--noinput").code == 0
    rows = open_session().rows(
        "SELECT 1, 1::int8, true, 'a'::text, 'a'::name, '{\"a\": 1}'::jsonb,"
        " ARRAY['[2]'::json], 1.5::float8, ARRAY[1, 2], ARRAY['a'::text]"
    )
    row = (1, 1, True, "a", "a", {"a": 1}, [[2]], 1.5, [1, 2], ["a"])
    assert rows == [row]
    assert type(rows[0]) is tuple
    assert {type(value) for value in rows[0]} <= {int, bool, str, dict, list, float}


# Settings of Django's connections


SHOW = (
    "SELECT set_config('app.seen', current_setting('statement_timeout') || ' ' ||"
    " current_setting('lock_timeout') || ' ' ||"
    " current_setting('idle_in_transaction_session_timeout'), false)"
)


@pytest.mark.parametrize("source", ["options", "role", "database", "receiver"])
@pytest.mark.parametrize("atomic", [True, False])
def test_time_outs_of_the_operator(
    django_database, log_in_as, small_shop, receive, new_role, source, atomic
) -> None:
    """Time-outs of Django's connection hold for migrations, and not for the leader's session."""
    seen: dict[str, list[str]] = {}
    values = {
        "statement_timeout": "31s",
        "lock_timeout": "4s",  # shorter than DDL_LOCK_TIMEOUT
        "idle_in_transaction_session_timeout": "33s",
    }
    name = django_database.name
    if source == "options":
        text = " ".join(f"-c {key}={value}" for key, value in values.items())
        log_in_as(OPTIONS={"options": text})
    for key, value in values.items():
        if source == "receiver":
            receive(execute(f"SET {key} = '{value}'"))
        elif source == "role":
            django_database.rows(
                f"ALTER ROLE postgres IN DATABASE {name} SET {key} = '{value}'"
            )
        elif source == "database":
            django_database.rows(f"ALTER DATABASE {name} SET {key} = '{value}'")

    def look(connection: BaseDatabaseWrapper) -> None:
        with connection.cursor() as cursor:
            found = []
            for key in values:
                cursor.execute(f"SHOW {key}")
                found += cursor.fetchone()
            seen["migration"] = found

    small_shop.run("0003_look", look, atomic=atomic)
    connections["default"].close()
    assert initialize().role == "leader"
    assert seen["migration"] == [*values.values()]


def test_the_leader_session_has_no_time_outs(
    django_database, log_in_as, open_session
) -> None:
    """The leader's session ignores the time-outs and the isolation level of the project."""
    text = "-c statement_timeout=1500 -c default_transaction_isolation=serializable"
    log_in_as(OPTIONS={"options": text, "isolation_level": 3})
    session = open_session()
    session.apply_session_settings()
    assert session.rows("SHOW statement_timeout") == [("0",)]
    assert session.rows("SHOW transaction_isolation") == [("read committed",)]
    with session.raw.transaction():
        assert session.rows("SHOW transaction_isolation") == [("read committed",)]


@pytest.mark.parametrize(
    ("name", "atomic"),
    [
        ("statement_timeout", True),
        ("transaction_timeout", True),
        ("idle_in_transaction_session_timeout", True),
        ("idle_session_timeout", False),
    ],
)
def test_a_migration_that_takes_too_long(
    django_database, log_in_as, small_shop, name, atomic
) -> None:
    """A migration that exceeds a time-out of the operator fails, as in plain Django."""
    if not django_database.rows("SELECT 1 FROM pg_settings WHERE name = %s", name):
        pytest.skip("needs a newer PostgreSQL")
    log_in_as(OPTIONS={"options": f"-c {name}=1500"})

    def exceed(connection: BaseDatabaseWrapper) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            pid = cursor.fetchone()[0]
            if "idle" in name:
                ended = (
                    "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = %s)"
                )
                wait_until(lambda: django_database.value(ended, pid))
            cursor.execute("SELECT pg_sleep(600)")

    small_shop.run("0003_slow", exceed, atomic=atomic)
    with pytest.raises(InitializationFailed, match="timeout"):
        initialize()


def test_a_temporary_table_that_appears(django_database, small_shop, open_session):
    """A search names the real table behind a temporary one of the same name."""
    initialize()
    session = open_session()
    session.raw.execute("CREATE TEMPORARY TABLE django_migrations (i int)")
    session.locate_tables()
    assert session.tables.existing("django_migrations") == "public.django_migrations"


def test_a_role_behind_a_pooler(django_database, new_role, open_session) -> None:
    """Behind a pooler each query assumes the role again, until the session is its own."""
    session = open_session()
    session.role = new_role(f"assumed_{django_database.name}")
    session._is_dedicated = False
    assert session.read("SELECT current_user::text") == [(session.role,)]
    assert session.rows("SELECT current_user::text") == [("postgres",)]
    session.apply_session_settings()
    assert session.rows("SELECT current_user::text") == [(session.role,)]
