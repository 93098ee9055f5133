"""An administrator's process runs the privileged steps, and other processes wait for them."""

from __future__ import annotations

import itertools
import logging
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from django.db import connections

from django_safe_init import (
    ConfigurationError,
    DatabaseUnreachable,
    InitializationFailed,
    LoginRefused,
    MissingPrivilege,
    WaitTimeout,
    get_status,
    initialize,
    is_ready,
    privileged,
)
from django_safe_init.backends.postgresql.lock_keys import privileged_key
from django_safe_init.conf import get_settings
from django_safe_init.core.build import current_build
from django_safe_init.core.step import PrivilegedContext
from django_safe_init.core.step_registry import init_step, registry
from django_safe_init.initialization import plan
from django_safe_init.initialization.initializer import Initializer
from django_safe_init.management import checks
from django_safe_init.management.commands.safe_init_status import Command as Status
from django_safe_init.management.commands.safe_migrate import Command
from django_safe_init.privileged import runner, status
from django_safe_init.privileged.registration import query
from django_safe_init.privileged.runner import PrivilegedStepRunner
from django_safe_init.privileged.status import pending_privileged
from example_project.embedded import EmbeddedServer
from tests.database.postgresql import planted
from tests.support import PATIENCE, Database, program, wait_until

SECRET = "correct horse battery staple"
_numbers = count(1)


@pytest.fixture(scope="module")
def watched_server() -> Iterator[EmbeddedServer]:
    """A database server that logs every statement, only for this module's roles."""
    everything = {"log_statement": "all", "log_min_duration_statement": "0"}
    with EmbeddedServer(18, settings=everything) as running:
        yield running


class Site:
    """A project with three roles: owner, application, administrator."""

    def __init__(self, server: EmbeddedServer, number: int) -> None:
        self.server = server
        self.name, self.owner, self.app = (
            f"shop_{number}",
            f"owner_{number}",
            f"app {number}",  # a name that needs quotes
        )

    def register(self) -> None:
        """Register the steps of the project's `init_steps.py`."""
        privileged.ensure_role(self.owner, password_env="OWNER_PASSWORD")
        privileged.ensure_database(owner=self.owner)
        privileged.ensure_extension("vector")
        privileged.ensure_role(self.app)
        privileged.grant_application(self.app, owner=self.owner)

    @property
    def labels(self) -> list[str]:
        return [each.label for each in current_build().privileged]

    def rows(self, query: str, database: str = "postgres") -> list[Any]:
        with self.server.connect(database) as connection:
            return connection.execute(query).fetchall()

    def as_role(self, role: str) -> psycopg.Connection[Any]:
        return self.server.connect(self.name, user=role)


@pytest.fixture
def site(
    watched_server: EmbeddedServer,
    small_shop: Any,
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
    django_db_blocker: Any,
) -> Iterator[Site]:
    """A site whose roles and database do not exist yet, and the registry of its steps."""
    made = Site(watched_server, next(_numbers))
    address = {
        "HOST": watched_server.host,
        "PORT": str(watched_server.port),
        "OPTIONS": {},
    }
    base = {**connections.settings["default"], **address}
    before = dict(connections.settings["default"])
    monkeypatch.setenv("OWNER_PASSWORD", SECRET)
    monkeypatch.setattr(registry, "_steps", [])
    monkeypatch.setattr(registry, "_is_complete", True)
    monkeypatch.setattr(registry, "_app", SimpleNamespace(label="shop"))
    settings.SAFE_INIT = {
        "IN_TESTS": True,
        "PRIVILEGED_DATABASE": "admin",
        "CONNECT_ATTEMPTS": 1,
    }
    with django_db_blocker.unblock():
        connections["default"].close()
        connections.settings["default"].update(
            {**address, "NAME": made.name, "USER": made.owner}
        )
        admin = {**base, "NAME": "postgres", "USER": "postgres"}
        monkeypatch.setitem(connections.settings, "admin", admin)
        made.register()
        try:
            yield made
        finally:
            connections["default"].close()
            connections.settings["default"].update(before)
            connections["admin"].close()
            del connections["admin"]
    with watched_server.connect() as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {made.name} WITH (FORCE)")
        for role in (made.app, made.owner):
            connection.execute(f'DROP ROLE IF EXISTS "{role}"')


def do(site: Site, timeout: float = 20) -> list[str]:
    said: list[str] = []
    PrivilegedStepRunner("default", timeout, said.append).run()
    return said


def assert_not_writable(site: Site, *tables: str) -> None:
    """Assert that the application may not delete from these tables."""
    with site.as_role(site.app) as app:
        for table in tables:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                app.execute(f"DELETE FROM {table}")


def serve_as(role: str) -> None:
    connections["default"].close()
    connections.settings["default"].update(USER=role)
    del connections["default"]


# Both phases


def test_two_phases(site: Site, command_line: Any) -> None:
    """The administrator, the owner and the application each need only their privileges."""
    with pytest.raises(MissingPrivilege) as refused:
        initialize()
    assert "safe_migrate --phase privileged" in str(refused.value)
    assert all(label in str(refused.value) for label in site.labels)

    ended = command_line(
        Command, "safe_migrate", "--phase", "privileged", "--database", "default",
        "--skip-checks", "--json",
    )  # fmt: skip
    assert (ended.code, ended.json["result"]) == (0, "ready"), ended.stderr
    assert [line for line in ended.stderr.splitlines() if "done" in line] == [
        f"[safe_init] step {label}: done" for label in site.labels
    ]
    assert initialize().role == "leader"
    assert is_ready()

    with site.as_role(site.app) as app:
        app.execute("INSERT INTO shop_product (name) VALUES ('tea')")
        app.execute("UPDATE shop_product SET name = 'coffee'")
        app.execute("DELETE FROM shop_product")
        app.execute("SELECT * FROM django_safe_init_run, django_migrations")
        for refused_sql in (
            "DROP TABLE shop_product",
            "ALTER TABLE shop_product ADD x int",
            "CREATE TABLE mine (x int)",
            "DELETE FROM django_migrations",
            "UPDATE django_safe_init_run SET outcome = 'ready'",
            "DELETE FROM django_safe_init_step",
            "CREATE ROLE other",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                app.execute(refused_sql)

    serve_as(site.app)
    assert is_ready()
    found = get_status()
    assert (found.ready, found.run is not None) == (True, True)


def test_again(site: Site) -> None:
    """A second privileged phase changes nothing, and future tables are granted."""
    do(site)
    initialize()
    with site.as_role(site.owner) as owner:
        owner.execute("CREATE TABLE later (id serial)")
    with site.as_role(site.app) as app:
        app.execute("INSERT INTO later DEFAULT VALUES")
    do(site)
    assert is_ready()
    assert PrivilegedStepRunner("default", None, print).plan() == []
    assert_not_writable(site, "django_safe_init_step")


def test_many_at_once(site: Site) -> None:
    """Ten concurrent privileged phases succeed."""
    with ThreadPoolExecutor(10) as pool:
        ended = list(pool.map(lambda _: do(site), range(10)))
    assert len(ended) == 10
    assert any("waiting for another process" in said[0] for said in ended)
    initialize()


def test_on_another_server(site: Site) -> None:
    """A restored dump without its roles is refused until the privileged phase runs."""
    do(site)
    initialize()
    with site.server.connect(site.name) as admin:
        admin.execute(f'DROP OWNED BY "{site.app}"')
        admin.execute(f'DROP ROLE "{site.app}"')
    missing = pending_privileged("default", current_build().privileged, get_settings())
    assert missing == [each for each in site.labels if "app_" in each]
    with pytest.raises(MissingPrivilege, match="role_app_"):
        initialize()
    do(site)
    assert initialize().role == "none"


# Each step


def test_a_role_that_exists(site: Site) -> None:
    """An existing role keeps its privileges and gets LOGIN."""
    with site.server.connect() as admin:
        admin.execute(f"CREATE ROLE {site.owner} NOLOGIN CREATEDB")
    do(site)
    query = (
        f"SELECT rolcanlogin, rolcreatedb FROM pg_roles WHERE rolname = '{site.owner}'"
    )
    assert site.rows(query) == [(True, True)]


@pytest.mark.parametrize("server", ["watched_server", "debian_server"])
def test_an_administrator_without_superuser(
    site: Site, request: pytest.FixtureRequest, server: str
) -> None:
    """A role with CREATEROLE and CREATEDB, as managed services offer, is sufficient."""
    running = request.getfixturevalue(server)
    with running.connect() as admin:
        admin.execute(f"CREATE ROLE admin_{site.name} LOGIN CREATEROLE CREATEDB")
    connections["admin"].close()
    del connections["admin"]
    connections.settings["admin"].update(
        USER=f"admin_{site.name}", PORT=str(running.port)
    )
    connections.settings["default"].update(PORT=str(running.port))
    connections["default"].close()
    del connections["default"]
    registry._steps[:] = [
        each for each in registry._steps if each.name != "extension_vector"
    ]
    do(site)
    initialize()
    do(site)
    connections["default"].close()
    with running.connect(site.name, user=site.app) as app:
        app.execute("INSERT INTO shop_product (name) VALUES ('tea')")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            app.execute("DELETE FROM django_migrations")
    with running.connect() as admin:
        admin.execute(f"DROP DATABASE {site.name} WITH (FORCE)")
        for role in (site.app, site.owner, f"admin_{site.name}"):
            admin.execute(f'DROP ROLE "{role}"')


def test_a_database_of_another_role(site: Site) -> None:
    """An existing database gets the owner."""
    with site.server.connect() as admin:
        admin.execute(f"CREATE DATABASE {site.name}")
    do(site)
    query = (
        f"SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = '{site.name}'"
    )
    assert site.rows(query) == [(site.owner,)]


def test_existing_tables(site: Site) -> None:
    """Existing tables are granted as well, and the step is pending until then."""
    do(site)
    with site.server.connect(site.name) as admin:
        admin.execute(
            f"CREATE TABLE older (id int); ALTER TABLE older OWNER TO {site.owner}"
        )
        admin.execute(f'REVOKE ALL ON older FROM "{site.app}"')
    with pytest.raises(MissingPrivilege, match="grants_app_"):
        initialize()
    do(site)
    initialize()


def test_only_tables_of_the_owner(site: Site) -> None:
    """The step grants sequences and reading of records, and skips tables of other owners."""
    do(site)
    initialize()
    with site.server.connect(site.name) as admin:
        admin.execute("CREATE TABLE audit (id int)")
        admin.execute(f'REVOKE ALL ON shop_product_id_seq FROM "{site.app}"')
        with pytest.raises(MissingPrivilege, match="grants_app_"):
            initialize()
        admin.execute(f'REVOKE ALL ON django_migrations FROM "{site.app}"')
    do(site)
    initialize()
    with site.as_role(site.app) as app:
        app.execute("SELECT nextval('shop_product_id_seq') FROM django_migrations")
    assert_not_writable(site, "audit", "django_migrations")


def test_the_records_are_never_writable(site: Site) -> None:
    """A second privileged phase does not change grants on the record tables."""
    do(site)
    initialize()
    query = "SELECT xmin, relacl FROM pg_class WHERE relname IN ({})".format(
        "'django_migrations', 'django_safe_init_run', 'django_safe_init_step'"
    )
    before = site.rows(query, site.name)
    do(site)
    assert len(before) == 3
    assert site.rows(query, site.name) == before


def test_two_schemas(site: Site) -> None:
    """The record tables in the owner's search path are read-only in another schema, too."""
    do(site)
    with site.server.connect(site.name) as admin:
        admin.execute(f"CREATE SCHEMA shop AUTHORIZATION {site.owner}")
        admin.execute(f"ALTER ROLE {site.owner} SET search_path = shop")
    privileged.grant_application(site.app, owner=site.owner, schema="shop")
    assert site.labels[-1] == f"shop.grants_{site.app}_shop".replace(" ", "_")
    do(site)
    initialize()
    do(site)
    assert initialize().role == "none"
    with site.as_role(site.app) as app:
        app.execute("INSERT INTO shop.shop_product (name) VALUES ('tea')")
    assert_not_writable(site, "shop.django_migrations", "shop.django_safe_init_run")


def test_a_named_database(site: Site) -> None:
    """The step can create another database than the alias names."""
    other = f"{site.name}_queue"
    privileged.ensure_database(other, owner=site.owner)
    do(site)
    assert site.labels[-1] == f"shop.database_{other}"
    query = f"SELECT 1 FROM pg_database WHERE datname = '{other}'"
    assert site.rows(query) == [(1,)]
    with site.server.connect() as admin:
        admin.execute(f"DROP DATABASE {other}")


def test_a_step_of_the_project(site: Site) -> None:
    """A project's privileged step reports by `done` whether it is pending."""

    def done(context: Any) -> bool:
        return bool(there)

    there: list[int] = []

    @init_step(phase="privileged", done=done)
    def tune(context: Any) -> None:
        there.append(1)

    assert "tune" not in {each.name for each in current_build().steps}
    do(site)
    assert there == [1]
    initialize()
    there.clear()
    with pytest.raises(MissingPrivilege, match="tune"):
        initialize()


def test_a_step_that_does_not_help(site: Site) -> None:
    """A step whose `done` is still False after it ran is an error."""
    init_step(
        lambda context: None, name="idle", phase="privileged", done=lambda _: False
    )
    with pytest.raises(InitializationFailed, match=r"not there afterwards: .*\.idle\."):
        do(site)


def test_a_step_that_raises(site: Site) -> None:
    """The error of a step names the step; earlier steps stay done."""

    def fail(context: Any) -> None:
        raise ValueError("no")

    init_step(fail, name="broken", phase="privileged", done=lambda context: False)
    with pytest.raises(InitializationFailed, match=r"broken: ValueError: no"):
        do(site)
    assert site.rows(f"SELECT 1 FROM pg_roles WHERE rolname = '{site.owner}'")


@pytest.fixture(scope="module")
def debian_server() -> Iterator[EmbeddedServer]:
    """Debian's PostgreSQL 15, which has the extensions that the embedded one lacks."""
    program("/usr/lib/postgresql/15/bin/postgres")
    with EmbeddedServer(15) as running:
        yield running


def test_extensions_of_debian(site: Site, debian_server: EmbeddedServer) -> None:
    """The owner can use an extension that only a superuser may create."""
    for alias in ("default", "admin"):
        connections.settings[alias].update(PORT=str(debian_server.port))
        connections[alias].close()
        del connections[alias]
    registry._steps.clear()
    privileged.ensure_role(site.owner)
    privileged.ensure_database(owner=site.owner)
    for name in ("pg_trgm", "citext", "file_fdw"):
        privileged.ensure_extension(name)
    with pytest.raises(MissingPrivilege, match="extension_file_fdw"):
        initialize()
    do(site)
    initialize()
    with debian_server.connect(site.name) as admin:
        admin.execute("DROP EXTENSION pg_trgm")
    with pytest.raises(MissingPrivilege, match=r"may do: shop\.extension_pg_trgm\. "):
        initialize()


# Reports


def test_in_the_status(site: Site, command_line: Callable[..., Any]) -> None:
    """`safe_init_status` lists the pending privileged steps."""
    do(site)
    initialize()
    assert "administrator" not in command_line(Status, "safe_init_status").stdout
    with site.server.connect(site.name) as admin:
        admin.execute("DROP EXTENSION vector")
    shown = command_line(Status, "safe_init_status").stdout
    assert "  needs an administrator: shop.extension_vector\n" in shown


def test_the_serving_role_is_an_administrator(site: Site, monkeypatch: Any) -> None:
    """W007 warns if the serving role is an administrator and privileged steps exist."""
    do(site)
    assert checks.check_serving_role(None, databases=["default"]) == []
    serve_as("postgres")
    [warning] = checks.check_serving_role(None, databases=["default"])
    assert warning.id == "safe_init.W007"
    assert checks.check_serving_role(None) == []
    connections["default"].close()
    connections.settings["default"].update(PORT="1")
    del connections["default"]
    assert checks.check_serving_role(None, databases=["default"]) == []
    registry._steps.clear()
    assert checks.check_serving_role(None, databases=["default"]) == []


# Secrets


def test_the_secret_is_nowhere(
    site: Site, caplog: Any, command_line: Any, settings: Any
) -> None:
    """The password appears in no log, table, statement, output or error, and works."""
    settings.DEBUG = True  # then Django logs statements
    for name in (None, "django.db.backends"):
        caplog.set_level(logging.DEBUG, name)
    ended = command_line(
        Command, "safe_migrate", "--phase", "privileged", "--skip-checks"
    )
    initialize()
    assert "CREATE ROLE" in caplog.text
    log = site.server.log.read_text()
    assert "ALTER ROLE" in log
    seen = [log, caplog.text, ended.stdout, ended.stderr]
    for statement in (
        "SELECT * FROM pg_stat_activity",
        "SELECT * FROM pg_authid",
    ):
        seen.append(str(site.rows(statement)))
    for table in ("django_safe_init_run", "django_safe_init_step"):
        seen.append(str(site.rows(f"SELECT * FROM {table}", site.name)))
    with open("/proc/self/cmdline") as line:
        seen.append(line.read())
    assert not [text for text in seen if SECRET in text or "battery" in text]
    [(verifier,)] = site.rows(
        f"SELECT rolpassword FROM pg_authid WHERE rolname = '{site.owner}'"
    )
    assert not [text for text in (log, caplog.text) if verifier in text]
    assert is_password(SECRET, verifier)
    assert not is_password("wrong", verifier)


def is_password(password: str, verifier: str) -> bool:
    """Return True if the SCRAM-SHA-256 verifier (RFC 5803) belongs to the password."""
    import base64
    import hashlib
    import hmac

    _, iterations_and_salt, keys = verifier.split("$")
    iterations, salt = iterations_and_salt.split(":")
    salted = hashlib.pbkdf2_hmac(
        "sha256", password.encode(), base64.b64decode(salt), int(iterations)
    )
    client = hmac.digest(salted, b"Client Key", "sha256")
    stored = hashlib.sha256(client).digest()
    return base64.b64encode(stored).decode() == keys.split(":")[0]


def test_without_the_secret(site: Site, monkeypatch: Any) -> None:
    """An error names the missing environment variable."""
    monkeypatch.delenv("OWNER_PASSWORD")
    with pytest.raises(ConfigurationError, match="set OWNER_PASSWORD in the environ"):
        do(site)


# Credentials, locks and time limits


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (None, "is not set"),
        ("nowhere", "names 'nowhere'"),
    ],
)
def test_without_an_administrator(
    site: Site, settings: Any, command_line: Any, value: Any, error: str
) -> None:
    """Without a valid alias, the privileged phase exits with 2 and names the setting."""
    settings.SAFE_INIT = {**settings.SAFE_INIT, "PRIVILEGED_DATABASE": value}
    ended = command_line(
        Command, "safe_migrate", "--phase", "privileged", "--skip-checks"
    )
    assert ended.code == 2
    assert f'SAFE_INIT["PRIVILEGED_DATABASE"] {error}' in ended.stderr


def test_an_administrator_of_no_server(site: Site, monkeypatch: Any) -> None:
    """The alias in PRIVILEGED_DATABASE must be a PostgreSQL database."""
    lite = {**connections.settings["admin"], "ENGINE": "django.db.backends.sqlite3"}
    connections["admin"].close()
    del connections["admin"]
    monkeypatch.setitem(connections.settings, "admin", {**lite, "NAME": ":memory:"})
    with pytest.raises(ConfigurationError, match="which is no PostgreSQL database"):
        do(site)


def test_the_lock_is_held(site: Site, settings: Any) -> None:
    """The phase waits WAIT_TIMEOUT for the lock, then raises WaitTimeout."""
    settings.SAFE_INIT = {**settings.SAFE_INIT, "WAIT_TIMEOUT": 0.5}
    with site.server.connect() as admin:
        admin.execute("SELECT pg_advisory_lock(%s)", [privileged_key()])
        with pytest.raises(WaitTimeout, match=str(privileged_key())):
            do(site)
    do(site)


def test_the_connection_is_lost(site: Site, caplog: Any) -> None:
    """A step that closes the connection fails with its error, and the lock is released."""
    caplog.set_level(logging.INFO)

    def lose(context: Any) -> None:
        context.connection.connection.close()
        raise ValueError("lost")

    init_step(lose, name="lose", phase="privileged", done=lambda context: True)
    with pytest.raises(InitializationFailed, match="lose: ValueError: lost"):
        do(site)
    registry._steps.pop()
    do(site)


def test_the_connection_is_lost_in_a_wait(
    site: Site, monkeypatch: pytest.MonkeyPatch, command_line: Any
) -> None:
    """A connection that ends again and again is exit code 5, after `RESTARTS` new ones."""
    with site.server.connect() as admin:
        admin.execute("SELECT pg_advisory_lock(%s)", [privileged_key()])

        def end_it(seconds: float) -> None:
            admin.execute(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
                "WHERE query LIKE '%pg_try_advisory_lock%' AND pid <> pg_backend_pid()"
            )

        monkeypatch.setattr(runner, "sleep", end_it)
        ended = command_line(
            Command, "safe_migrate", "--phase", "privileged", "--skip-checks"
        )
    assert ended.code == 5
    assert "Lost the administrator's connection 4 times" in ended.stderr
    assert "The administrator's connection ended: " in ended.stderr


def test_the_connection_is_lost_in_a_step(site: Site) -> None:
    """After a connection that ends in a step, all steps run again."""
    calls: list[str] = []

    @init_step(phase="privileged", done=lambda context: True)
    def end_it(context: PrivilegedContext) -> None:
        calls.append("end_it")
        if len(calls) == 1:
            with context.connection.cursor() as cursor:
                cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    said = do(site)
    assert calls == ["end_it", "end_it"]
    assert any("Starting over." in line for line in said)
    assert is_done(site)


@pytest.mark.parametrize("begins", ["before", "in a step"])
def test_a_read_only_server(
    site: Site, settings: Any, in_background: Callable[..., Any], begins: str
) -> None:
    """While the administrator's server is read-only, the privileged phase waits."""
    settings.SAFE_INIT = {**settings.SAFE_INIT, "CONNECT_ATTEMPTS": 10}
    parameter, calls = "default_transaction_read_only", itertools.count()

    def set_read_only(value: str) -> None:
        with site.server.connect() as admin:
            admin.execute(f"SET {parameter} = off")
            admin.execute(f"ALTER ROLE postgres SET {parameter} = {value}")

    @init_step(phase="privileged", done=lambda context: True)
    def become_read_only(context: PrivilegedContext) -> None:
        if next(calls) == 0 and begins == "in a step":
            set_read_only("on")
            with context.connection.cursor() as cursor:
                cursor.execute(f"SET {parameter} = on")
                cursor.execute("CREATE TABLE refused ()")

    if begins == "before":
        set_read_only("on")
    said: list[str] = []
    try:
        runner = PrivilegedStepRunner("default", 60, said.append)
        phase = in_background(runner.run)
        wait_until(lambda: [line for line in said if "waiting for the primary" in line])
    finally:
        set_read_only("off")
    phase.result(PATIENCE)
    assert is_done(site)


def is_done(site: Site) -> bool:
    return bool(site.rows(f"SELECT 1 FROM pg_roles WHERE rolname = '{site.owner}'"))


def test_plan_and_check(site: Site, command_line: Callable[..., Any]) -> None:
    """The options --plan and --check of the privileged phase change nothing."""
    run = ("safe_migrate", "--phase", "privileged", "--skip-checks")
    planned = command_line(Command, *run, "--plan")
    assert planned.stdout.splitlines() == [
        "Planned steps:",
        *[line for label in site.labels for line in (label, "    privileged")],
    ]
    checked = command_line(Command, *run, "--check")
    assert checked.code == 1
    assert f"not done: {', '.join(site.labels)}" in checked.stderr
    assert not site.rows(f"SELECT 1 FROM pg_roles WHERE rolname = '{site.owner}'")
    do(site)
    assert (
        command_line(Command, *run, "--plan", "--check").stdout
        == "  No planned steps.\n"
    )


@pytest.mark.parametrize("option", ["--plan", "--check"])
def test_plan_and_check_of_the_schema(
    site: Site, command_line: Callable[..., Any], option: str
) -> None:
    """`safe_migrate` with --plan or --check names pending privileged steps."""
    run = ("safe_migrate", "--skip-checks", option)
    refused = command_line(Command, *run)
    assert refused.code == 2
    assert "safe_migrate --phase privileged" in refused.stderr
    do(site)
    later = command_line(Command, *run)
    assert later.code == (0 if option == "--plan" else 1)
    assert "privileged" not in later.stderr
    assert command_line(Command, *run, "--mode", "external").code == later.code


def test_a_plan_without_a_server(site: Site, command_line: Callable[..., Any]) -> None:
    """Without a database server, --plan is exit code 4 without a traceback."""
    registry._steps.clear()
    connections["default"].close()
    connections.settings["default"].update(PORT="1")
    del connections["default"]
    ended = command_line(Command, "safe_migrate", "--skip-checks", "--plan")
    assert ended.code == 4
    assert "Traceback" not in ended.stderr


def test_an_unlimited_timeout(site: Site) -> None:
    """The statement timeout never exceeds PostgreSQL's maximum."""
    assert do(site, timeout=float("inf"))
    assert do(site, timeout=1e9)


def test_server_side_binding(site: Site) -> None:
    """The privileged phase works with server-side binding of parameters."""
    options = connections.settings["admin"]["OPTIONS"]
    connections.settings["admin"]["OPTIONS"] = {
        **options,
        "server_side_binding": True,
    }
    do(site)
    initialize()


def test_written_with_async(site: Site) -> None:
    """A privileged step and its `done` may be coroutine functions."""
    did: list[str] = []

    async def work(context: PrivilegedContext) -> None:
        did.append(context.alias)

    async def is_done(context: PrivilegedContext) -> bool:
        return bool(did)

    init_step(work, name="late", phase="privileged", done=is_done)
    with pytest.raises(MissingPrivilege, match="and 3 more"):
        initialize()
    do(site)
    assert did == ["default"]
    assert initialize().result == "ready"


def test_a_connection_that_is_lost_tells_nothing(site: Site) -> None:
    """The leader checks again after a lost connection, instead of reporting pending steps."""
    do(site)
    lost: list[int] = []

    def is_done(context: PrivilegedContext) -> bool:
        if not lost:
            [(pid,)] = query(context.connection, "SELECT pg_backend_pid()")
            lost.append(pid)
            with site.server.connect() as admin:
                admin.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
        return query(context.connection, "SELECT true") == [(True,)]

    init_step(lambda context: None, name="late", phase="privileged", done=is_done)
    assert initialize().result == "ready"
    assert lost


def test_a_server_that_never_answers(site: Site, settings: Any) -> None:
    """The check for pending steps takes no longer than its timeout."""
    steps = current_build().privileged
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = {"HOST": "127.0.0.1", "PORT": str(silent.getsockname()[1])}
        connections["default"].close()
        connections.settings["default"].update(address)
        del connections["default"]
        assert pending_privileged("default", steps, get_settings(), 1) is None


def test_a_plan_with_a_refused_login(
    site: Site, command_line: Callable[..., Any], monkeypatch: Any
) -> None:
    """A refused login with --plan names the privileged phase if privileged steps exist."""

    def refuse(*arguments: Any) -> None:
        raise LoginRefused("password authentication failed.")

    monkeypatch.setattr(plan, "wait_for_server", refuse)
    monkeypatch.setattr(status, "pending_privileged", lambda *arguments: None)
    run = ("safe_migrate", "--skip-checks", "--plan")
    ended = command_line(Command, *run)
    assert ended.code == 4
    assert "--phase privileged" in ended.stderr
    registry._steps.clear()
    again = command_line(Command, *run)
    assert again.code == 4
    assert "--phase privileged" not in again.stderr


@pytest.mark.parametrize("where", ["connection", "target"])
def test_a_statement_that_is_blocked(
    site: Site, command_line: Callable[..., Any], where: str
) -> None:
    """PostgreSQL cancels a blocked statement at the deadline; the error names pg_blocking_pids."""
    do(site)

    def wait(context: PrivilegedContext) -> None:
        connection = getattr(context, where)
        query(connection() if where == "target" else connection, "SELECT pg_sleep(60)")

    init_step(wait, name="late", phase="privileged", done=lambda _: True)
    registry._steps[:] = registry._steps[-1:]
    ended = command_line(
        Command, "safe_migrate", "--phase", "privileged", "--skip-checks",
        "--timeout", "0.5",
    )  # fmt: skip
    assert ended.code == 3
    assert "shop.late was not done in the time there is: " in ended.stderr
    assert "pg_blocking_pids" in ended.stderr


def test_no_command_follows(site: Site, command_line: Callable[..., Any]) -> None:
    """The privileged phase does not accept a command to execute."""
    run = ("safe_migrate", "--phase", "privileged", "--skip-checks")
    ended = command_line(Command, *run, "--", "true")
    assert ended.code == 2
    assert "no command can follow it" in ended.stderr


def test_external(site: Site, settings: Any) -> None:
    """A process with the mode "external" does not check the privileged steps."""
    do(site)
    initialize()
    registry._steps.append(registry._steps[0])
    init_step(
        lambda context: None, name="late", phase="privileged", done=lambda _: False
    )
    registry._steps.pop(-2)
    assert initialize(mode="external").result == "ready"
    with pytest.raises(MissingPrivilege, match="late"):
        initialize()


def test_a_server_that_does_not_answer_yet(site: Site, monkeypatch: Any) -> None:
    """No step is reported as pending while the database server does not answer."""
    connections.settings["default"].update(PORT="1")
    connections["default"].close()
    del connections["default"]
    assert (
        pending_privileged("default", current_build().privileged, get_settings())
        is None
    )


def test_checked_again(site: Site, monkeypatch: Any) -> None:
    """The leader checks the privileged steps again if the first check got no answer."""
    do(site)
    answers: list[Any] = [None, ["shop.late"]]
    monkeypatch.setattr(status, "pending_privileged", lambda *a: answers.pop(0))
    with pytest.raises(MissingPrivilege, match=r"shop\.late"):
        initialize()
    assert answers == []
    answers += [None, []]
    assert initialize().result == "ready"
    assert answers == []


def test_never_checked(site: Site, monkeypatch: Any) -> None:
    """The leader does not begin if it cannot check the privileged steps."""
    do(site)
    from django_safe_init.initialization import initializer

    monkeypatch.setattr(status, "pending_privileged", lambda *arguments: None)
    monkeypatch.setattr(initializer, "sleep", lambda seconds: None)
    with pytest.raises(DatabaseUnreachable, match="gave no second connection"):
        initialize()


@pytest.mark.parametrize("privileged_steps", [True, False])
def test_a_login_that_is_refused(
    site: Site, monkeypatch: Any, privileged_steps: bool
) -> None:
    """A refused login names the privileged phase, because the role may not exist."""
    do(site)

    def refuse(*arguments: Any) -> None:
        raise LoginRefused("password authentication failed.")

    monkeypatch.setattr(Initializer, "_finished_run", refuse)
    if not privileged_steps:
        registry._steps.clear()
    with pytest.raises(LoginRefused) as caught:
        initialize()
    assert ("--phase privileged" in str(caught.value)) is privileged_steps


def test_on_sqlite(
    lite: Any, small_shop: Any, monkeypatch: Any, command_line: Any
) -> None:
    """On SQLite, no step is privileged."""
    monkeypatch.setattr(registry, "_steps", [])
    monkeypatch.setattr(registry, "_is_complete", True)
    monkeypatch.setattr(registry, "_app", SimpleNamespace(label="shop"))
    privileged.ensure_role("owner")
    privileged.grant_application("app", owner="owner")
    assert "administrator" not in command_line(Status, "safe_init_status").stdout
    assert initialize().role == "leader"
    assert is_ready()
    ended = command_line(
        Command, "safe_migrate", "--phase", "privileged", "--skip-checks"
    )
    assert ended.code == 0
    assert "no server, so nothing is privileged" in ended.stderr


# Objects of another role


@pytest.fixture
def maintenance(site: Site) -> Iterator[Database]:
    """Yield the maintenance database, whose schema `public` is empty again after the test."""
    database = Database("postgres", site.server.params())
    yield database
    database.rows("DROP SCHEMA public CASCADE")
    database.rows("CREATE SCHEMA public")
    database.rows("ALTER DATABASE postgres RESET search_path")
    database.rows("DROP ROLE IF EXISTS mallory")
    database.close()


def test_a_function_that_an_administrator_must_not_call(
    site: Site, maintenance: Database
) -> None:
    """A role that may create functions in `public` does not become a superuser."""
    maintenance.rows("CREATE ROLE mallory LOGIN")
    maintenance.rows("GRANT CREATE ON SCHEMA public TO mallory")
    mallory = maintenance.connect(user="mallory")
    with mallory:
        for arguments in ("text, text", "name, text", "character varying, text"):
            mallory.execute(
                f"CREATE FUNCTION public.pg_has_role({arguments}) RETURNS boolean"  # type: ignore[arg-type]  # no literal
                " LANGUAGE plpgsql AS"
                " $$ BEGIN ALTER ROLE mallory SUPERUSER; RETURN true; END $$"
            )
    do(site)
    assert not maintenance.value(
        "SELECT rolsuper FROM pg_roles WHERE rolname = 'mallory'"
    )
    maintenance.rows("DROP OWNED BY mallory")


@pytest.mark.parametrize("path", ['"$user", public', "public, pg_catalog"])
def test_planted_objects(
    site: Site, maintenance: Database, of_django: list[str], path: str
) -> None:
    """No statement of the privileged phase calls a planted function or operator."""
    do(site)
    target = Database(site.name, site.server.params())
    for database in (maintenance, target):
        database.rows(planted.TRY)
        functions, operators = planted.plant(database)
        assert min(functions, operators) > 100
        database.rows(f"ALTER DATABASE {database.name} SET search_path = {path}")
        database.close()
    site.server.log.write_text("")
    do(site)
    settings = get_settings()
    steps = current_build().privileged
    assert pending_privileged("default", steps, settings) == []
    assert status.is_administrator("admin")
    connections["admin"].close()
    assert initialize().role == "leader"
    assert planted.called(site.server, of_django) == []


def test_a_refused_statement() -> None:
    """An error of the administrator's server that is no lost connection has a remedy, too."""
    refused = psycopg.errors.InsufficientPrivilege("permission denied for function")
    expected = pytest.raises(DatabaseUnreachable, match="Run the phase again")
    with expected, runner._translate_errors():
        raise refused
