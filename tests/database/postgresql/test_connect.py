"""Reaching the server: what is final, what is waited for, and what a session of ours is like."""

from __future__ import annotations

import contextlib
import logging
import time

import psycopg
import pytest
from django.db import connections as django_connections

from django_safe_init.backends.postgresql import connect as connect_module
from django_safe_init.backends.postgresql import session as session_module
from django_safe_init.backends.postgresql.connect import connect, create_direct_wrapper
from django_safe_init.backends.postgresql.session import (
    SESSION_SETTINGS,
    apply_session_settings,
)
from django_safe_init.conf import Settings
from django_safe_init.core.deadline import Deadline
from django_safe_init.core.records import TablesLocked
from django_safe_init.exceptions import (
    ConfigurationError,
    DatabaseUnreachable,
    LoginRefused,
    MissingPrivilege,
    WaitTimeout,
)
from tests.support import wait_until

SETTINGS = Settings(connect_attempts=3, connect_timeout=5)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch) -> list[float]:
    """Pauses are noted, and a hundred times shorter."""
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
    """The role of a connection, once there is one."""
    with try_to_connect(**changes) as session:
        return session.rows("SELECT current_user")[0][0]


def test_nobody_listens(django_database, log_in_as, short_pauses) -> None:
    """A server that does not answer is tried as often as CONNECT_ATTEMPTS says."""
    log_in_as(PORT="1")
    with pytest.raises(DatabaseUnreachable) as caught:
        try_to_connect()
    assert str(caught.value).startswith("The database 'default' cannot be reached: ")
    assert str(caught.value).endswith(
        "Check HOST and PORT, and that the server is running."
    )
    assert len(short_pauses) == 2


def test_an_unknown_database_is_tried_again(django_database, log_in_as, short_pauses):
    """A database that is not there yet may be created in a moment."""
    log_in_as(NAME="nowhere")
    with pytest.raises(DatabaseUnreachable, match='database "nowhere" does not exist'):
        try_to_connect()
    assert len(short_pauses) == 2


def test_a_database_that_appears(make_database, log_in_as, short_pauses) -> None:
    """As soon as it is there, it is used."""
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
    """Attempts end with the time that all of it may take."""
    log_in_as(PORT="1")
    with pytest.raises(DatabaseUnreachable):
        try_to_connect(deadline=0, connect_attempts=100)
    assert short_pauses == []


def test_an_unknown_role(django_database, log_in_as, short_pauses) -> None:
    """A role that does not exist is final at once."""
    log_in_as(USER="nobody_here")
    with pytest.raises(LoginRefused, match='role "nobody_here" does not exist'):
        try_to_connect()
    assert short_pauses == []


def test_a_role_that_may_not_log_in(django_database, log_in_as, new_role) -> None:
    """So is a role that may not log in."""
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
    """A wrong or missing password, or a rule against us, is final at once."""
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
    """A server where `locked` needs a password and `barred` is refused."""
    rules = spare_server.data / "pg_hba.conf"
    before = rules.read_text()
    with spare_server.connect() as admin:
        admin.execute("CREATE ROLE locked LOGIN PASSWORD 'right'")
        admin.execute("CREATE ROLE barred LOGIN")
        rules.write_text(
            "host all locked all scram-sha-256\nhost all barred all reject\n" + before
        )
        admin.execute("SELECT pg_reload_conf()")
        wait_until(lambda: _needs_password(spare_server), 10)
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
    """A server with no slot left."""
    with contextlib.suppress(psycopg.OperationalError):
        for _ in range(20):
            sessions.callback(spare_server.connect().close)
        pytest.fail("there was room for 20")
    return spare_server


def log_in_at(log_in_as, server) -> None:
    log_in_as(HOST=server.host, PORT=server.port, NAME="postgres")


def test_a_full_server(django_database, log_in_as, full_server, short_pauses) -> None:
    """A full server is waited for in flat jitter up to WAIT_TIMEOUT, whatever the attempts."""
    log_in_at(log_in_as, full_server)
    with pytest.raises(WaitTimeout) as caught:
        try_to_connect(wait_timeout=0.3, connect_attempts=1)
    assert "had no connection for us in time" in str(caught.value)
    assert "Raise max_connections" in str(caught.value)
    assert len(short_pauses) >= 2
    assert all(0.1 <= pause <= 2 for pause in short_pauses)


def test_a_full_server_and_a_deadline(django_database, log_in_as, full_server) -> None:
    """It is not waited for longer than all of it may take."""
    log_in_at(log_in_as, full_server)
    with pytest.raises(WaitTimeout):
        try_to_connect(deadline=0)


def test_room_again(
    django_database, log_in_as, full_server, sessions, in_background, short_pauses
) -> None:
    """As soon as there is room, the session is there."""
    log_in_at(log_in_as, full_server)
    waiting = in_background(lambda: connected_role())
    wait_until(lambda: short_pauses)
    sessions.close()
    assert waiting.result() == "postgres"


def test_a_server_that_starts(
    django_database, log_in_as, spare_server, in_background, short_pauses
) -> None:
    """A server that is starting up is waited for, with a single attempt allowed."""
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
        wait_until(lambda: "starting up" in _answer(spare_server))
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


def _answer(server) -> str:
    try:
        server.connect().close()
    except psycopg.OperationalError as exc:
        return str(exc)
    return ""


def test_wrong_options(django_database, log_in_as) -> None:
    """An option that libpq does not know is an error of the configuration."""
    log_in_as(OPTIONS={"color": "blue"})
    with pytest.raises(
        ConfigurationError, match=r"DATABASES\['default'\] cannot be used"
    ):
        try_to_connect()


# What a session of ours is like


def test_session(session, django_database) -> None:
    """A session is an autocommit connection of its own that names itself."""
    [backend] = django_database.backends()
    assert backend["application_name"] == "safe_init test"
    assert backend["pid"] == session.handshake_pid
    assert session.raw.autocommit
    assert session.rows("SELECT 1; SELECT 2") == [(2,)]
    assert session.rows("SET work_mem = '1MB'") == []


def test_reads_have_limits(session, observer) -> None:
    """A reader waits a second for a locked table, and the limit ends with the query."""
    session.rows("CREATE TABLE locked_table ()")
    observer.execute("BEGIN; LOCK TABLE locked_table")
    before = time.monotonic()
    with pytest.raises(TablesLocked):
        session.read("SELECT * FROM locked_table")
    assert 0.5 < time.monotonic() - before < 5
    observer.execute("ROLLBACK")
    assert session.rows("SHOW lock_timeout") == [("0",)]


def test_search_path_of_the_options(django_database, log_in_as, open_session) -> None:
    """What OPTIONS says of the start-up options holds for our sessions too."""
    django_database.rows("CREATE SCHEMA app")
    log_in_as(OPTIONS={"options": "-c search_path=app"})
    assert open_session().rows("SELECT current_schema()") == [("app",)]


def test_assume_role(django_database, log_in_as, new_role, open_session) -> None:
    """Django's `assume_role` is the role of our reads, and of our writes once protected."""
    log_in_as(OPTIONS={"assume_role": new_role('the "owner"'.replace('"', ""))})
    session = open_session()
    assert session.read("SELECT current_user") == [("the owner",)]
    assert session.rows("SELECT current_user") == [("postgres",)]
    session.apply_session_settings()
    assert session.rows("SELECT current_user") == [("the owner",)]


@pytest.mark.parametrize("role", ["the owner", "nobody_here"])
def test_a_role_that_may_not_be_assumed(
    django_database, log_in_as, new_role, open_session, role
) -> None:
    """A role that cannot be assumed is an error with the GRANT."""
    new_role("the owner")
    log_in_as(USER=new_role("login"), OPTIONS={"assume_role": role})
    with pytest.raises(MissingPrivilege) as caught:
        open_session()
    assert str(caught.value).startswith(
        f"The role login cannot be {role}, as `assume_role`"
    )
    assert str(caught.value).endswith(f'GRANT "{role}" TO "login";')


def test_protection(session) -> None:
    """A protected session outlives the role's time-outs and notices a dead client."""
    session.apply_session_settings()
    shown = {
        name: session.rows(f"SELECT current_setting('{name}')")[0][0]
        for name in SESSION_SETTINGS
    }
    assert shown == SESSION_SETTINGS


def test_an_answer_that_does_not_arrive(
    django_database, log_in_as, open_session
) -> None:
    """Our own sessions wait 5 s for it, on both sides; other connections as they like."""
    session = open_session()
    session.apply_session_settings()
    assert session.rows("SHOW tcp_user_timeout") == [("5000",)]
    assert session.raw.info.get_parameters()["tcp_user_timeout"] == "5000"
    assert (
        "tcp_user_timeout"
        not in create_direct_wrapper("default").settings_dict["OPTIONS"]
    )
    log_in_as(OPTIONS={"tcp_user_timeout": 7000})
    other = open_session()
    assert other.raw.info.get_parameters()["tcp_user_timeout"] == "7000"
    apply_session_settings(other.raw)
    assert other.rows("SHOW tcp_user_timeout") == [("0",)]


def test_protection_is_set_once(session) -> None:
    """What was set later is not undone by protecting again."""
    session.apply_session_settings()
    session.rows("SET statement_timeout = '7s'")
    session.apply_session_settings()
    assert session.rows("SHOW statement_timeout") == [("7s",)]


@pytest.mark.parametrize(
    ("name", "value"),
    [("no_such_setting", "1"), ("client_connection_check_interval", "soon")],
)
def test_a_refused_setting(
    django_database, open_session, monkeypatch, caplog, name, value
) -> None:
    """A setting that the server refuses is logged once and skipped, the others hold."""
    monkeypatch.setattr(session_module, "_refused_settings", set())
    monkeypatch.setattr(
        session_module,
        "SESSION_SETTINGS",
        {**SESSION_SETTINGS, name: value, "work_mem": "777kB"},
    )
    with caplog.at_level(logging.WARNING, "django_safe_init"):
        for _ in range(2):
            session = open_session()
            apply_session_settings(session.raw)
            assert session.rows("SHOW work_mem") == [("777kB",)]
            assert session.rows("SHOW tcp_keepalives_idle") == [("2",)]
    [message] = caplog.messages
    assert message.startswith(f"The server refuses the setting {name}: ")


def test_an_older_server(server16, django_database, log_in_as) -> None:
    """PostgreSQL 16, which has no transaction_timeout, is protected without a word."""
    log_in_at(log_in_as, server16)
    with try_to_connect() as session:
        session.apply_session_settings()
        assert session.rows("SHOW idle_session_timeout") == [("0",)]
    assert session_module._refused_settings == set()


def test_the_projects_settings_stay(django_database, log_in_as, open_session) -> None:
    """Opening sessions changes nothing in DATABASES."""
    log_in_as(OPTIONS={"pool": {"min_size": 1}, "application_name": "mine"})
    before = repr(django_connections.settings["default"])
    session = open_session()
    assert repr(django_connections.settings["default"]) == before
    assert session.rows("SHOW application_name") == [("safe_init test",)]
