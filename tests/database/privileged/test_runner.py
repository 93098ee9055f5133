"""Two phases: what an administrator does, and that everybody else waits for it."""

from __future__ import annotations

import logging
import socket
import time
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
from django_safe_init.initialization.initializer import Initializer
from django_safe_init.management import checks
from django_safe_init.management.commands import safe_migrate
from django_safe_init.management.commands.safe_init_status import Command as Status
from django_safe_init.management.commands.safe_migrate import Command
from django_safe_init.privileged import runner, status
from django_safe_init.privileged.registration import query
from django_safe_init.privileged.runner import PrivilegedStepRunner
from django_safe_init.privileged.status import pending_privileged
from example_project.embedded import EmbeddedServer
from tests.support import program

SECRET = "correct horse battery staple"
_numbers = count(1)


@pytest.fixture(scope="module")
def watched_server() -> Iterator[EmbeddedServer]:
    """A server of which every statement is in the log; its roles are this module's."""
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
        """The steps of its `init_steps.py`."""
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
    """A site whose roles and database are not there yet; what it registered is all there is."""
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
    """The application may not take a row out of any of them."""
    with site.as_role(site.app) as app:
        for table in tables:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                app.execute(f"DELETE FROM {table}")


def serve_as(role: str) -> None:
    connections["default"].close()
    connections.settings["default"].update(USER=role)
    del connections["default"]


# All of it


def test_two_phases(site: Site, command_line: Any) -> None:
    """First the administrator, then the owner, then the application, each with its rights."""
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
    """Done again, nothing changes, and nothing fails; tables to come are granted, too."""
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
    """Ten administrators' processes at the same moment: none fails, and all is there."""
    with ThreadPoolExecutor(10) as pool:
        ended = list(pool.map(lambda _: do(site), range(10)))
    assert len(ended) == 10
    assert any("waiting for another process" in said[0] for said in ended)
    initialize()


def test_on_another_server(site: Site) -> None:
    """A dump that is restored where the roles are not has the record, and is refused."""
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


# Each of them


def test_a_role_that_exists(site: Site) -> None:
    """It keeps what it may, and may log in afterwards."""
    with site.server.connect() as admin:
        admin.execute(f"CREATE ROLE {site.owner} NOLOGIN CREATEDB")
    do(site)
    query = (
        f"SELECT rolcanlogin, rolcreatedb FROM pg_roles WHERE rolname = '{site.owner}'"
    )
    assert site.rows(query) == [(True, True)]


@pytest.mark.parametrize("server", ["watched_server", "debian_server"])
def test_an_administrator_who_is_no_superuser(
    site: Site, request: pytest.FixtureRequest, server: str
) -> None:
    """As managed services give one: it may make roles and databases, and no more."""
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


def test_a_database_of_somebody_else(site: Site) -> None:
    """It is given to the owner."""
    with site.server.connect() as admin:
        admin.execute(f"CREATE DATABASE {site.name}")
    do(site)
    query = (
        f"SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = '{site.name}'"
    )
    assert site.rows(query) == [(site.owner,)]


def test_tables_that_are_there(site: Site) -> None:
    """Tables that were made before are granted as well; without that it is not done."""
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


def test_only_what_is_the_owners(site: Site) -> None:
    """Sequences are looked at, too; what others own is left alone, and the records are read."""
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
    """Done again, the phase does not touch rights on the records, not even for a moment."""
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
    """The records are where the owner's path leads, and read-only there, too."""
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
    """A database may be another than that of the alias."""
    other = f"{site.name}_queue"
    privileged.ensure_database(other, owner=site.owner)
    do(site)
    assert site.labels[-1] == f"shop.database_{other}"
    query = f"SELECT 1 FROM pg_database WHERE datname = '{other}'"
    assert site.rows(query) == [(1,)]
    with site.server.connect() as admin:
        admin.execute(f"DROP DATABASE {other}")


def test_of_the_projects_own(site: Site) -> None:
    """A project's own step says by the catalogue whether it is done."""

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


def test_one_that_does_not_help(site: Site) -> None:
    """What is not there after it was done is an error."""
    init_step(
        lambda context: None, name="idle", phase="privileged", done=lambda _: False
    )
    with pytest.raises(InitializationFailed, match=r"not there afterwards: .*\.idle\."):
        do(site)


def test_one_that_raises(site: Site) -> None:
    """Its name is told; what came before it stays."""

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
    """An extension that only a superuser may create is there for the owner, and seen."""
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


# What is told


def test_in_the_status(site: Site, command_line: Callable[..., Any]) -> None:
    """`safe_init_status` names what is left for an administrator."""
    do(site)
    initialize()
    assert "administrator" not in command_line(Status, "safe_init_status").stdout
    with site.server.connect(site.name) as admin:
        admin.execute("DROP EXTENSION vector")
    shown = command_line(Status, "safe_init_status").stdout
    assert "  needs an administrator: shop.extension_vector\n" in shown


def test_the_serving_role_is_an_administrator(site: Site, monkeypatch: Any) -> None:
    """A system check tells, if there is a privileged phase at all."""
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
    """Not in a log, a table, a statement, an output or an error; yet it is the password."""
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
    """Whether a SCRAM-SHA-256 verifier (RFC 5803) is that of the password."""
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
    """Its variable is named, and nothing else."""
    monkeypatch.delenv("OWNER_PASSWORD")
    with pytest.raises(ConfigurationError, match="set OWNER_PASSWORD in the environ"):
        do(site)


# Who may, and when


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
    """Where the credentials are not, the phase says what it needs."""
    settings.SAFE_INIT = {**settings.SAFE_INIT, "PRIVILEGED_DATABASE": value}
    ended = command_line(
        Command, "safe_migrate", "--phase", "privileged", "--skip-checks"
    )
    assert ended.code == 2
    assert f'SAFE_INIT["PRIVILEGED_DATABASE"] {error}' in ended.stderr


def test_an_administrator_of_no_server(site: Site, monkeypatch: Any) -> None:
    """The alias has to be one of a PostgreSQL server."""
    lite = {**connections.settings["admin"], "ENGINE": "django.db.backends.sqlite3"}
    connections["admin"].close()
    del connections["admin"]
    monkeypatch.setitem(connections.settings, "admin", {**lite, "NAME": ":memory:"})
    with pytest.raises(ConfigurationError, match="which is no PostgreSQL database"):
        do(site)


def test_the_lock_is_held_by_somebody(site: Site, settings: Any) -> None:
    """It is waited for, in the end in vain."""
    settings.SAFE_INIT = {**settings.SAFE_INIT, "WAIT_TIMEOUT": 0.5}
    with site.server.connect() as admin:
        admin.execute("SELECT pg_advisory_lock(%s)", [privileged_key()])
        with pytest.raises(WaitTimeout, match=str(privileged_key())):
            do(site)
    do(site)


def test_the_connection_is_lost(site: Site, caplog: Any) -> None:
    """The error is the one that was met, and the lock is gone with the connection."""
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
    """One sentence with an exit code, as everywhere."""
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
    assert ended.code == 4
    assert "The administrator's connection ended: " in ended.stderr


def test_plan_and_check(site: Site, command_line: Callable[..., Any]) -> None:
    """Both change nothing."""
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
def test_a_look_is_refused_as_well(
    site: Site, command_line: Callable[..., Any], option: str
) -> None:
    """Whoever looks before a release learns that an administrator comes first."""
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
    """It says so in a sentence."""
    registry._steps.clear()
    connections["default"].close()
    connections.settings["default"].update(PORT="1")
    del connections["default"]
    ended = command_line(Command, "safe_migrate", "--skip-checks", "--plan")
    assert ended.code == 4
    assert "Traceback" not in ended.stderr


def test_a_time_without_end(site: Site) -> None:
    """However long one may wait, the server is asked for no more than it can count."""
    assert do(site, timeout=float("inf"))
    assert do(site, timeout=1e9)


def test_bound_by_the_server(site: Site) -> None:
    """Parameters may be bound by the server: no statement of ours minds."""
    options = connections.settings["admin"]["OPTIONS"]
    connections.settings["admin"]["OPTIONS"] = {
        **options,
        "server_side_binding": True,
    }
    do(site)
    initialize()


def test_written_with_async(site: Site) -> None:
    """A step, and its `done`, may be `async` like any other."""
    did: list[str] = []

    async def work(context: PrivilegedContext) -> None:
        did.append(context.alias)

    async def is_done(context: PrivilegedContext) -> bool:
        return bool(did)

    init_step(work, name="late", phase="privileged", done=is_done)
    with pytest.raises(MissingPrivilege, match=r"shop\.late"):
        initialize()
    do(site)
    assert did == ["default"]
    assert initialize().result == "ready"


def test_a_connection_that_is_lost_tells_nothing(site: Site) -> None:
    """That is no reason to call for an administrator: it is looked at again."""
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
    """Nobody waits longer than `CONNECT_TIMEOUT` to see what is missing."""
    steps = current_build().privileged
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = {"HOST": "127.0.0.1", "PORT": str(silent.getsockname()[1])}
        connections["default"].close()
        connections.settings["default"].update(address)
        del connections["default"]
        began = time.monotonic()
        assert pending_privileged("default", steps, get_settings(), 1) is None
    assert time.monotonic() - began < 20


def test_a_login_that_is_refused_to_look(
    site: Site, command_line: Callable[..., Any], monkeypatch: Any
) -> None:
    """The command that makes the role is named here, too."""

    def refuse(*arguments: Any) -> None:
        raise LoginRefused("password authentication failed.")

    monkeypatch.setattr(safe_migrate, "wait_for_server", refuse)
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
    """The server ends it when the time is over, and the command says what to look for."""
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
    """An administrator's process becomes no server."""
    run = ("safe_migrate", "--phase", "privileged", "--skip-checks")
    ended = command_line(Command, *run, "--", "true")
    assert ended.code == 2
    assert "no command can follow it" in ended.stderr


def test_external(site: Site, settings: Any) -> None:
    """Who only waits for others does not ask."""
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
    """Nothing can be seen then; when it answers it is looked at before anything is done."""
    connections.settings["default"].update(PORT="1")
    connections["default"].close()
    del connections["default"]
    assert (
        pending_privileged("default", current_build().privileged, get_settings())
        is None
    )


def test_looked_at_again(site: Site, monkeypatch: Any) -> None:
    """A server that answers later is looked at before anything is done."""
    do(site)
    answers: list[Any] = [None, ["shop.late"]]
    monkeypatch.setattr(status, "pending_privileged", lambda *a: answers.pop(0))
    with pytest.raises(MissingPrivilege, match=r"shop\.late"):
        initialize()
    assert answers == []
    answers += [None, []]
    assert initialize().result == "ready"
    assert answers == []


def test_never_seen(site: Site, monkeypatch: Any) -> None:
    """Where it cannot be seen whether all is done, nobody begins."""
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
    """With passwords nobody can tell a wrong one from a role that is not there: both are named."""
    do(site)

    def refuse(*arguments: Any) -> None:
        raise LoginRefused("password authentication failed.")

    monkeypatch.setattr(Initializer, "_finished", refuse)
    if not privileged_steps:
        registry._steps.clear()
    with pytest.raises(LoginRefused) as caught:
        initialize()
    assert ("--phase privileged" in str(caught.value)) is privileged_steps


def test_where_there_is_no_server(
    lite: Any, small_shop: Any, monkeypatch: Any, command_line: Any
) -> None:
    """On SQLite nothing is privileged: nobody needs an administrator."""
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
