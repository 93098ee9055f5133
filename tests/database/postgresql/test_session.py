"""Sessions of this package: settings, limits and forked processes."""

from __future__ import annotations

import logging
import os
import signal
import warnings
from collections.abc import Callable

import psycopg
import pytest
from django.db import connections as django_connections

from django_safe_init.backends.postgresql import session as session_module
from django_safe_init.backends.postgresql.connect import create_direct_wrapper
from django_safe_init.backends.postgresql.lock import AdvisoryLock
from django_safe_init.backends.postgresql.lock_keys import leader_key
from django_safe_init.backends.postgresql.session import (
    NO_TIMEOUTS,
    PATROL_SETTINGS,
    apply_session_settings,
)
from django_safe_init.core.records import TablesLocked
from django_safe_init.exceptions import (
    MissingPrivilege,
)
from tests.support import wait_until


def fork(child: Callable[[], None]) -> int:
    """Run `child` in a forked process, which exits with 0 unless `child` raises."""
    with warnings.catch_warnings():
        # Python 3.12 warns of threads, and the tests of others may have left some.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        child()
        code = 0
    finally:
        os._exit(code)


def exit_code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("end", ["closes", "exits"])
def test_a_child_cannot_end_the_parents_session(session, end) -> None:
    """A forked child that closes an inherited session, or exits, does not end the parent's lock."""
    lock = AdvisoryLock(session)
    assert lock.try_acquire()
    assert exit_code(fork(session.close if end == "closes" else lambda: None)) == 0
    lock.verify()
    lock.release()


def test_a_child_cannot_use_the_parents_session(session) -> None:
    """A statement of a forked child on an inherited session fails."""

    def use() -> None:
        with pytest.raises(psycopg.OperationalError):
            session.rows("SELECT 1")

    assert exit_code(fork(use)) == 0
    assert session.rows("SELECT 2") == [(2,)]


def test_a_fork_after_close(session) -> None:
    """A process can fork after it closed a session."""
    session.close()
    assert exit_code(fork(lambda: None)) == 0


def test_a_child_does_not_keep_a_dead_parents_lock(
    open_session, django_database
) -> None:
    """The lock of a killed leader is free although its forked child lives on."""
    read_end, write_end = os.pipe()
    pid_read_end, pid_write_end = os.pipe()

    def lead_and_fork() -> None:
        assert AdvisoryLock(open_session()).try_acquire()
        grandchild = fork(lambda: os.read(read_end, 1))
        os.write(pid_write_end, f"{grandchild}\n".encode())
        signal.pause()

    os.set_blocking(pid_read_end, True)
    leader = fork(lead_and_fork)
    grandchild = int(os.read(pid_read_end, 20))
    try:
        assert django_database.holders(leader_key())
        os.kill(leader, signal.SIGKILL)
        assert exit_code(leader) == -signal.SIGKILL
        wait_until(lambda: not django_database.holders(leader_key()), 5)
        os.kill(grandchild, 0)
    finally:
        os.write(write_end, b"x")
        for end in (read_end, write_end, pid_read_end, pid_write_end):
            os.close(end)


def test_session(session, django_database) -> None:
    """A session is an autocommit connection with its own application name."""
    [backend] = django_database.backends()
    assert backend["application_name"] == "safe_init test"
    assert backend["pid"] == session.handshake_pid
    assert session.raw.autocommit
    assert session.rows("SELECT 1; SELECT 2") == [(2,)]
    assert session.rows("SET work_mem = '1MB'") == []


def test_reads_have_limits(session, raw_session) -> None:
    """A read waits at most a second for a lock, and the limit ends with the query."""
    session.rows("CREATE TABLE public.locked_table ()")
    raw_session.execute("BEGIN; LOCK TABLE locked_table")
    with pytest.raises(TablesLocked):  # the lock is held until the end of this test
        session.read("SELECT * FROM public.locked_table")
    raw_session.execute("ROLLBACK")
    assert session.rows("SHOW lock_timeout") == [("0",)]


def test_search_path_of_the_options(django_database, log_in_as, open_session) -> None:
    """Sessions use the start-up options of OPTIONS."""
    django_database.rows("CREATE SCHEMA app")
    log_in_as(OPTIONS={"options": "-c search_path=app"})
    tables = open_session().tables
    assert (tables.search_path, tables.default_schema) == ("app", "app")


def test_assume_role(django_database, log_in_as, new_role, open_session) -> None:
    """Sessions use Django's `assume_role`."""
    log_in_as(OPTIONS={"assume_role": new_role('the "owner"'.replace('"', ""))})
    session = open_session()
    assert session.read("SELECT current_user") == [("the owner",)]
    session.apply_session_settings()
    assert session.rows("SELECT current_user") == [("the owner",)]


@pytest.mark.parametrize("role", ["the owner", "nobody_here"])
def test_a_role_that_may_not_be_assumed(
    django_database, log_in_as, new_role, open_session, role
) -> None:
    """A role that cannot be assumed is a `MissingPrivilege` error with the GRANT."""
    new_role("the owner")
    log_in_as(USER=new_role("login"), OPTIONS={"assume_role": role})
    with pytest.raises(MissingPrivilege) as caught:
        open_session()
    assert str(caught.value).startswith(
        f"The role login cannot be {role}, as `assume_role`"
    )
    assert str(caught.value).endswith(f'GRANT "{role}" TO "login";')


def test_session_settings(session) -> None:
    """`apply_session_settings` overrides the role's timeouts."""
    session.apply_session_settings()
    shown = {
        name: session.rows(f"SELECT current_setting('{name}')")[0][0]
        for name in (*NO_TIMEOUTS, *PATROL_SETTINGS)
    }
    assert shown == {**NO_TIMEOUTS, **PATROL_SETTINGS}


def test_tcp_user_timeout(django_database, log_in_as, open_session) -> None:
    """Only sessions of this package have a `tcp_user_timeout` of 5 s unless OPTIONS sets one."""
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
    apply_session_settings(other.raw, PATROL_SETTINGS)
    assert other.rows("SHOW tcp_user_timeout") == [("0",)]


def test_settings_are_applied_once(session) -> None:
    """`apply_session_settings` does not undo later changes of the session."""
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
    """A setting that the server refuses is logged once, and the others are applied."""
    monkeypatch.setattr(session_module, "_refused_settings", set())
    values = {**PATROL_SETTINGS, name: value, "work_mem": "777kB"}
    with caplog.at_level(logging.WARNING, "django_safe_init"):
        for _ in range(2):
            session = open_session()
            apply_session_settings(session.raw, values)
            assert session.rows("SHOW work_mem") == [("777kB",)]
            assert session.rows("SHOW tcp_keepalives_idle") == [("2",)]
    [message] = caplog.messages
    assert message.startswith(f"The server refuses the setting {name}: ")


def test_an_older_server(server16, django_database, log_in_as, open_session) -> None:
    """On PostgreSQL 16, which has no `transaction_timeout`, nothing is logged."""
    log_in_as(HOST=server16.host, PORT=server16.port, NAME="postgres")
    session = open_session()
    session.apply_session_settings()
    assert session.rows("SHOW idle_session_timeout") == [("0",)]
    assert session_module._refused_settings == set()


def test_the_projects_settings_stay(django_database, log_in_as, open_session) -> None:
    """Opening sessions does not change DATABASES."""
    log_in_as(OPTIONS={"pool": {"min_size": 1}, "application_name": "mine"})
    before = repr(django_connections.settings["default"])
    session = open_session()
    assert repr(django_connections.settings["default"]) == before
    assert session.rows("SHOW application_name") == [("safe_init test",)]
