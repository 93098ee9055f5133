"""Connecting to a database server: final errors, and errors that are retried."""

from __future__ import annotations

import contextlib
import time

import psycopg
import pytest
from django.db import connections

from django_safe_init import SafeInitError, initialize
from django_safe_init.backends.postgresql import connect as connect_module
from django_safe_init.backends.postgresql import errors as errors_module
from django_safe_init.backends.postgresql.connect import connect, create_direct_wrapper
from django_safe_init.backends.postgresql.lock_keys import work_key
from django_safe_init.conf import Settings
from django_safe_init.core.deadline import Deadline
from django_safe_init.exceptions import (
    ConfigurationError,
    DatabaseUnreachable,
    LoginRefused,
    MissingPrivilege,
    WaitTimeout,
)
from tests.database.conftest import Background
from tests.support import OBSERVER, PATIENCE, wait_until

SETTINGS = Settings(connect_attempts=3, connect_timeout=5)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch) -> list[float]:
    """Return the list of pauses, each shortened to a hundredth."""
    noted: list[float] = []

    def sleep(seconds: float) -> None:
        noted.append(seconds)
        time.sleep(seconds / 100)

    monkeypatch.setattr(connect_module, "sleep", sleep)
    return noted


def try_to_connect(deadline: float | None = None, **changes):
    settings = Settings(**{"connect_attempts": 3, "connect_timeout": 5, **changes})
    wrapper = create_direct_wrapper("default")
    return connect(wrapper, settings, Deadline(deadline), "safe_init test")


def connected_role(**changes) -> str:
    """Return the role of a new connection."""
    with try_to_connect(**changes) as session:
        return session.rows("SELECT current_user")[0][0]


def test_no_answer(django_database, log_in_as, short_pauses) -> None:
    """`connect` tries a server that does not answer CONNECT_ATTEMPTS times."""
    log_in_as(PORT="1")
    with pytest.raises(DatabaseUnreachable) as caught:
        try_to_connect()
    assert str(caught.value).startswith("The database 'default' cannot be reached: ")
    assert str(caught.value).endswith(
        "Check HOST and PORT, and that the server is running."
    )
    assert len(short_pauses) == 2


@pytest.mark.parametrize(
    ("host", "port"),
    [
        ("127.0.0.1", "1,2"),
        ("127.0.0.1,127.0.0.1", "1,2,3"),
        ("127.0.0.1", "70000"),
        ("127.0.0.1", "http"),
    ],
)
def test_settings_without_a_server(
    django_database, log_in_as, short_pauses, host, port
) -> None:
    """Settings that can never connect are refused at once."""
    log_in_as(HOST=host, PORT=port)
    with pytest.raises(ConfigurationError, match="'default' cannot be used") as caught:
        try_to_connect()
    assert "HOST and PORT be lists of the same length" in str(caught.value)
    assert caught.value.exit_code == 2
    assert short_pauses == []


def test_an_unknown_database_is_tried_again(django_database, log_in_as, short_pauses):
    """`connect` retries an unknown database, which may be created soon."""
    log_in_as(NAME="nowhere")
    with pytest.raises(DatabaseUnreachable, match='database "nowhere" does not exist'):
        try_to_connect()
    assert len(short_pauses) == 2


def test_a_database_that_appears(make_database, log_in_as, short_pauses) -> None:
    """`connect` succeeds as soon as the database exists."""
    database = make_database()
    database.rows(f"ALTER DATABASE {database.name} ALLOW_CONNECTIONS true")
    log_in_as(NAME="nowhere")
    wrapper = create_direct_wrapper("default")
    real = wrapper.settings_dict

    class Late(Deadline):
        def clip(self, seconds: float) -> float:
            if len(short_pauses) == 1:
                real["NAME"] = database.name
            return super().clip(seconds)

    with connect(wrapper, SETTINGS, Late(None), "safe_init test") as session:
        assert session.rows("SELECT current_database()") == [(database.name,)]


def test_the_deadline_ends_the_attempts(django_database, log_in_as, short_pauses):
    """`connect` makes no attempt after the deadline."""
    log_in_as(PORT="1")
    with pytest.raises(DatabaseUnreachable):
        try_to_connect(deadline=0, connect_attempts=100)
    assert short_pauses == []


def test_an_unknown_role(django_database, log_in_as, short_pauses) -> None:
    """An unknown role is not retried."""
    log_in_as(USER="nobody_here")
    with pytest.raises(LoginRefused, match='role "nobody_here" does not exist'):
        try_to_connect()
    assert short_pauses == []


def test_a_role_that_may_not_log_in(django_database, log_in_as, new_role) -> None:
    """A role without the right to log in is not retried."""
    log_in_as(USER=new_role("locked_out", "NOLOGIN"))
    with pytest.raises(LoginRefused, match="is not permitted to log in"):
        try_to_connect()


@pytest.mark.parametrize(
    ("login", "text"),
    [
        ({"PASSWORD": "wrong"}, "password authentication failed"),
        ({}, "no password supplied"),
        ({"USER": "barred", "PASSWORD": "x"}, "rejects connection"),
    ],
)
def test_a_wrong_password(
    django_database, log_in_as, password_server, short_pauses, login, text
) -> None:
    """A wrong or missing password and a rejecting pg_hba.conf rule are not retried."""
    log_in_as(
        **{
            "HOST": password_server.host,
            "PORT": password_server.port,
            "NAME": "postgres",
            "USER": "locked",
            **login,
        }
    )
    with pytest.raises(LoginRefused, match=text) as caught:
        try_to_connect()
    assert "trying again will not help" in str(caught.value)
    assert short_pauses == []


@pytest.fixture
def password_server(spare_server):
    """Yield a server on which `locked` needs a password and `barred` is rejected."""
    rules = spare_server.data / "pg_hba.conf"
    before = rules.read_text()
    with spare_server.connect() as admin:
        admin.execute("CREATE ROLE locked LOGIN PASSWORD 'right'")
        admin.execute("CREATE ROLE barred LOGIN")
        rules.write_text(
            "host all locked all scram-sha-256\nhost all barred all reject\n" + before
        )
        admin.execute("SELECT pg_reload_conf()")
        wait_until(lambda: _needs_password(spare_server))
        yield spare_server
        rules.write_text(before)
        admin.execute("SELECT pg_reload_conf()")
        admin.execute("DROP ROLE locked, barred")


def _needs_password(server) -> bool:
    try:
        server.connect(user="locked").close()
    except psycopg.OperationalError:
        return True
    return False


@pytest.fixture
def full_server(spare_server, sessions):
    """Return a server without a free connection slot."""
    with contextlib.suppress(psycopg.OperationalError):
        for _ in range(20):
            sessions.callback(spare_server.connect().close)
        pytest.fail("there was room for 20")
    return spare_server


def log_in_at(log_in_as, server) -> None:
    log_in_as(HOST=server.host, PORT=server.port, NAME="postgres")


def test_a_full_server(django_database, log_in_as, full_server, short_pauses) -> None:
    """`connect` waits for a full server up to WAIT_TIMEOUT, regardless of CONNECT_ATTEMPTS."""
    log_in_at(log_in_as, full_server)
    with pytest.raises(WaitTimeout) as caught:
        try_to_connect(wait_timeout=3, connect_attempts=1)
    assert "had no connection for us in time" in str(caught.value)
    assert "Raise max_connections" in str(caught.value)
    assert len(short_pauses) >= 2
    assert all(0.1 <= pause <= 2 for pause in short_pauses)


def test_a_full_server_and_a_deadline(django_database, log_in_as, full_server) -> None:
    """`connect` waits for a full server no longer than the deadline."""
    log_in_at(log_in_as, full_server)
    with pytest.raises(WaitTimeout):
        try_to_connect(deadline=0)


def test_a_slot_becomes_free(
    django_database, log_in_as, full_server, sessions, in_background, short_pauses
) -> None:
    """`connect` succeeds as soon as the full server has a free slot."""
    log_in_at(log_in_as, full_server)
    waiting = in_background(lambda: connected_role())
    wait_until(lambda: short_pauses)
    sessions.close()
    assert waiting.result() == "postgres"


def test_a_server_that_starts(
    django_database, log_in_as, spare_server, in_background, short_pauses
) -> None:
    """`connect` waits for a server that is starting up, even with one attempt."""
    log_in_at(log_in_as, spare_server)
    spare_server.stop()
    signal_file, gate = spare_server.data / "standby.signal", spare_server.data / "go"
    before = dict(spare_server.settings)
    # The server starts up for as long as this command runs.
    spare_server.settings["restore_command"] = (
        "while [ ! -e go ]; do sleep 0.02; done; false"
    )
    signal_file.touch()
    try:
        starting = in_background(spare_server.start)
        wait_until(lambda: "starting up" in _error(spare_server))
        waiting = in_background(lambda: connected_role(connect_attempts=1))
        wait_until(lambda: short_pauses)
        gate.touch()
        assert waiting.result() == "postgres"
        starting.result()
    finally:
        gate.touch()
        starting.join()
        spare_server.stop()
        spare_server.settings = before
        signal_file.unlink(missing_ok=True)
        gate.unlink()
        spare_server.start()


def _error(server) -> str:
    """Return the error of a connection attempt."""
    try:
        server.connect().close()
    except psycopg.OperationalError as exc:
        return str(exc)
    return ""


def test_wrong_options(django_database, log_in_as) -> None:
    """An option unknown to libpq is a `ConfigurationError`."""
    log_in_as(OPTIONS={"color": "blue"})
    with pytest.raises(
        ConfigurationError, match=r"DATABASES\['default'\] cannot be used"
    ):
        try_to_connect()


# Limits that no wait satisfies


def limited(kind: str, database, role: str, limit: int) -> str:
    """Limit the connections of a role or database, and return the object that has the limit.

    Afterwards no session of the observer counts, not even one that is ending.
    """
    name = role if kind == "ROLE" else database.name
    database.close()
    observers = (
        "SELECT FROM pg_stat_activity WHERE datname = %s AND application_name = %s"
    )
    with contextlib.closing(database.connect(dbname="postgres")) as admin:
        admin.execute(f'ALTER {kind} "{name}" CONNECTION LIMIT {limit}')
        found = [database.name, OBSERVER]
        wait_until(lambda: not admin.execute(observers, found).fetchall())
    return name


@pytest.mark.parametrize("kind", ["ROLE", "DATABASE"])
@pytest.mark.parametrize("is_translated", [False, True])
def test_a_limit_of_one(
    django_database, log_in_as, new_role, small_shop, monkeypatch, kind, is_translated
) -> None:
    """A leader that may have one connection says at once which limit it is, in any language."""
    role = new_role("limited one")
    django_database.rows(f'GRANT ALL ON SCHEMA public TO "{role}"')
    if is_translated:
        monkeypatch.setattr(errors_module, "_BUSY", ())
    name = limited(kind, django_database, role, 1)
    log_in_as(USER=role)
    with pytest.raises(MissingPrivilege) as caught:
        initialize()
    limited(kind, django_database, role, -1)
    text = str(caught.value)
    assert "admits 1 connections, and this initialization of 'default' needs 2" in text
    assert f"ALTER {kind} " in text
    assert name in text
    assert caught.value.exit_code == 2
    assert initialize().role == "leader"
    log_in_as(USER="postgres")


@pytest.mark.parametrize("is_translated", [False, True])
def test_a_limit_that_a_run_exceeds(
    django_database, log_in_as, new_role, small_shop, monkeypatch, is_translated
) -> None:
    """A migration's thread that needs one connection more than the role has fails at once."""
    if is_translated:
        monkeypatch.setattr(errors_module, "_BUSY", ())
    role = new_role("limited", "LOGIN CONNECTION LIMIT 2")
    django_database.rows(f"GRANT ALL ON SCHEMA public TO {role}")

    def use_thread(connection) -> None:
        thread = Background(lambda: connections["default"].ensure_connection())
        thread.start()
        thread.result(PATIENCE)

    small_shop.run("0003_thread", use_thread)
    log_in_as(USER=role)
    with pytest.raises(SafeInitError) as caught:
        initialize()
    assert "The role limited admits 2 connections" in str(caught.value)
    assert "needs 3 at once" in str(caught.value)
    assert "ALTER ROLE limited CONNECTION LIMIT 4;" in str(caught.value)
    log_in_as(USER="postgres")


@pytest.mark.parametrize("is_translated", [False, True])
def test_a_limit_that_others_use(
    django_database,
    log_in_as,
    new_role,
    small_shop,
    monkeypatch,
    in_background,
    connect_raw,
    is_translated,
) -> None:
    """A run waits for a connection that another session of its role has now."""
    if is_translated:
        monkeypatch.setattr(errors_module, "_BUSY", ())
    role = new_role("limited", "LOGIN CONNECTION LIMIT 2")
    django_database.rows(f"GRANT ALL ON SCHEMA public TO {role}")
    others = []

    def take_slot(connection) -> None:
        if others:  # the run has started over
            return
        connection.close()
        wait_until(lambda: not django_database.holders(work_key()))
        others.append(connect_raw(user=role))

    small_shop.run("0003_close", take_slot, atomic=False)
    log_in_as(USER=role)
    leading = in_background(initialize)
    wait_until(lambda: others)
    assert leading.is_alive()
    others[0].close()
    assert leading.result(PATIENCE).role == "leader"
    log_in_as(USER="postgres")


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [
        ("ROLE", 'Raise it with ALTER ROLE "limited" CONNECTION LIMIT'),
        ("DATABASE", "Raise it with ALTER DATABASE "),
    ],
)
def test_the_advice_names_the_limit(
    django_database, log_in_as, new_role, connect_raw, kind, remedy
) -> None:
    """A process that waited in vain says which limit to raise."""
    role = new_role("limited")
    limited(kind, django_database, role, 1)
    raw = connect_raw(user=role)
    log_in_as(USER=role)
    with pytest.raises(WaitTimeout) as caught:
        try_to_connect(deadline=0)
    raw.close()
    assert remedy in str(caught.value)
    assert "max_connections" not in str(caught.value)
    log_in_as(USER="postgres")


def test_reserved_connections(django_database, log_in_as, spare_server, small_shop):
    """A server that reserves all but one connection for others admits no leader."""
    before = dict(spare_server.settings)
    spare_server.settings["superuser_reserved_connections"] = "5"
    spare_server.settings["reserved_connections"] = "4"
    spare_server.restart("fast")
    try:
        with spare_server.connect() as admin:
            admin.execute("CREATE ROLE ordinary LOGIN")
        log_in_at(log_in_as, spare_server)
        log_in_as(USER="ordinary")
        with pytest.raises(MissingPrivilege) as caught:
            initialize()
        assert "The server, for the role ordinary, admits 1 connections" in str(
            caught.value
        )
        assert "max_connections = " in str(caught.value)
    finally:
        log_in_as(USER="postgres")
        spare_server.settings = before
        spare_server.restart("fast")
        with spare_server.connect() as admin:
            admin.execute("DROP ROLE ordinary")
