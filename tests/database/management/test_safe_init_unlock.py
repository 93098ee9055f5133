"""`safe_init_unlock`: show the leader, and terminate its sessions."""

from __future__ import annotations

import os
import pty
import signal
import sys
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import psycopg
import pytest

from django_safe_init.backends.postgresql.activity import LeaderSession
from django_safe_init.backends.postgresql.holder import terminate, terminate_sessions
from django_safe_init.backends.postgresql.lock import AdvisoryLock
from django_safe_init.backends.postgresql.lock_keys import leader_key, work_key
from django_safe_init.backends.postgresql.recorder import PostgresRecorder
from django_safe_init.backends.postgresql.schema import ensure_tables
from django_safe_init.core.build import current_build
from django_safe_init.core.records import RUN_TABLE, leader_name
from django_safe_init.core.states import State
from django_safe_init.management import console
from django_safe_init.management.commands import safe_init_unlock
from django_safe_init.management.commands.safe_init_unlock import Command
from tests.support import wait_until


@pytest.fixture
def run(command_line):
    """Return a function that runs the command from a command line."""
    return partial(command_line, Command, "safe_init_unlock")


@pytest.fixture
def leader(open_session, small_shop) -> PostgresRecorder:
    """Return the recorder of a leader that holds the lock, in its second migration."""
    session = open_session("safe_init leader")
    lock = AdvisoryLock(session)
    assert lock.try_acquire()
    ensure_tables(session)
    recorder = PostgresRecorder(session, current_build(), None)
    recorder.open_run("safe_migrate")
    recorder.total = 2
    recorder.update(State.MIGRATING, "shop.0002_sale")
    return recorder


@pytest.fixture
def working(connect_raw):
    """Return a connection that works for the leader."""
    raw = connect_raw(application_name="work")
    raw.execute("SELECT pg_advisory_lock_shared(%s)", [work_key()])
    return raw


@pytest.fixture
def terminal(monkeypatch) -> Callable[[str], None]:
    """Yield a function that types a text on the terminal that is standard input."""
    master, slave = pty.openpty()

    def type_(text: str) -> None:
        os.write(master, text.encode())

    with os.fdopen(slave, "r") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield type_
    os.close(master)


def is_there(database, pid: int) -> bool:
    return bool(database.rows("SELECT 1 FROM pg_stat_activity WHERE pid = %s", pid))


def test_nothing_held(run, django_database, shop) -> None:
    """The command exits with 0 if no process leads."""
    ended = run()
    assert (ended.code, ended.stdout) == (
        0,
        "default: nobody holds the leader lock\n",
    )


def test_work_without_a_leader(run, django_database, shop, working) -> None:
    """The command ignores the sessions of a dead leader, which its successor terminates."""
    assert run("--noinput").stdout == "default: nobody holds the leader lock\n"
    assert is_there(django_database, working.info.backend_pid)


def test_it_ends_the_leader(run, django_database, leader, working) -> None:
    """The command terminates the leader's sessions and frees both keys."""
    pids = [leader.session.handshake_pid, working.info.backend_pid]
    ended = run("--noinput")
    assert ended.code == 0, ended.stderr
    assert ended.stdout.endswith("default: ended; a replica that waits takes over\n")
    assert not any(is_there(django_database, pid) for pid in pids)
    assert django_database.holders(leader_key()) == []
    assert django_database.holders(work_key()) == []


def test_output(run, django_database, leader, working, in_background) -> None:
    """The command prints the leader, its run, its sessions, their statements and blockers."""
    django_database.rows("CREATE TABLE busy ()")
    pid = working.info.backend_pid
    with django_database.connect(application_name="report") as reader:
        blocking = reader.info.backend_pid
        reader.execute("BEGIN; SELECT * FROM busy")
        altering = in_background(lambda: working.execute("DROP TABLE busy"))
        wait_until(lambda: django_database.backends("wait_event_type = 'Lock'"))
        ended = run("--noinput")
    first, session, work, blocker, _ = ended.stdout.splitlines()
    name = django_database.newest_run()["leader"]
    assert first.startswith(
        f"default: the leader {name} of run {leader.run_id} (safe_migrate), for "
    )
    assert "0 of 2 done: migrating shop.0002_sale; last sign of life " in first
    assert session.startswith(
        f"  backend {leader.session.handshake_pid} (leader lock; role postgres, "
        "safe_init 1/2 shop.0002_sale, from 127.0.0.1, for "
    )
    assert ": idle for " in session
    assert work.startswith(f"  backend {pid} (work key; role postgres, work, ")
    assert work.endswith(" s: DROP TABLE busy")
    assert "): running for " in work
    assert blocker.startswith(
        f"  blocked by pid {blocking} (role postgres, report, from 127.0.0.1, idle"
    )
    assert blocker.endswith(
        f"To end only that: SELECT pg_terminate_backend({blocking});"
    )
    with pytest.raises(psycopg.errors.AdminShutdown):
        altering.result()


@pytest.mark.parametrize("run_of", ["nobody", "another", "locked"])
def test_a_leader_without_a_run(
    run, django_database, session, shop, connect_raw, run_of
) -> None:
    """The command prints the session of a leader without a readable run."""
    assert AdvisoryLock(session).try_acquire()
    if run_of != "nobody":
        ensure_tables(session)
        PostgresRecorder(session, current_build(), None).open_run("test")
    if run_of == "another":
        django_database.rows(f"UPDATE {RUN_TABLE} SET backend_pid = 0")
    if run_of == "locked":
        connect_raw().execute(f"BEGIN; LOCK TABLE {RUN_TABLE}")
    ended = run("--noinput")
    assert ended.code == 0, ended.stderr
    first, second, _ = ended.stdout.splitlines()
    assert first == f"default: the leader {leader_name()} that has no run to be seen"
    assert f"backend {session.handshake_pid} (leader lock; " in second


def test_another_projects_leader(run, open_session, session, settings, shop) -> None:
    """The command ignores the leader of another LOCK_KEY."""
    theirs, ours = AdvisoryLock(session), AdvisoryLock(open_session(), "shop")
    assert theirs.try_acquire()
    assert ours.try_acquire()
    settings.SAFE_INIT = {**settings.SAFE_INIT, "LOCK_KEY": "shop"}
    assert run("--noinput").code == 0
    theirs.verify()
    assert run().stdout == "default: nobody holds the leader lock\n"


# The question


@pytest.mark.parametrize("answer", ["y\n", "Yes\n"])
def test_confirmed(run, django_database, leader, terminal, answer) -> None:
    """The answer "y" terminates the leader."""
    terminal(answer)
    ended = run()
    assert ended.code == 0, ended.stderr
    assert "End these sessions? [y/N]" in ended.stdout
    assert not is_there(django_database, leader.session.handshake_pid)


@pytest.mark.parametrize("answer", ["n\n", "\n", "\x04"], ids=["n", "return", "^D"])
def test_not_confirmed(run, django_database, leader, terminal, answer) -> None:
    """Any other answer terminates nothing, and the command exits with 1."""
    terminal(answer)
    ended = run()
    assert (ended.code, ended.stderr) == (1, "CommandError: Nothing was ended.\n")
    assert is_there(django_database, leader.session.handshake_pid)


def test_no_terminal(run, django_database, leader, monkeypatch) -> None:
    """Without a terminal the command prints the leader, terminates nothing and exits with 1."""
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: False))
    ended = run()
    assert ended.code == 1
    assert "the leader " in ended.stdout
    assert ended.stderr == (
        "CommandError: Nothing was ended: there is no terminal to confirm it on. "
        "Add --noinput.\n"
    )
    assert is_there(django_database, leader.session.handshake_pid)


def test_interrupted(run, django_database, leader, monkeypatch) -> None:
    """Ctrl-C at the question terminates nothing, and the command exits with 130."""
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr(
        console,
        "input",
        lambda: os.kill(os.getpid(), signal.SIGINT),
        raising=False,
    )
    assert run().code == 130
    assert is_there(django_database, leader.session.handshake_pid)


def test_the_connection_ends_meanwhile(
    run, django_database, leader, monkeypatch
) -> None:
    """A connection lost during the question causes one line and exit code 4."""
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))

    def answer() -> str:
        [own] = django_database.backends("application_name = 'safe_init unlock'")
        django_database.rows("SELECT pg_terminate_backend(%s, 5000)", own["pid"])
        return "y"

    monkeypatch.setattr(console, "input", answer, raising=False)
    ended = run()
    assert ended.code == 4
    assert ended.stderr.startswith(
        "CommandError: The connection to 'default' ended: terminating connection"
    )
    assert is_there(django_database, leader.session.handshake_pid)


# Sessions that cannot be terminated


def test_another_roles_leader(
    run, django_database, leader, working, new_role, log_in_as
) -> None:
    """The command names a session of another role, prints the SQL and exits with 1."""
    log_in_as(USER=new_role("small"))
    ended = run("--noinput")
    pid = leader.session.handshake_pid
    assert (ended.code, ended.stderr) == (
        1,
        f"CommandError: Backend {pid} of the role postgres may not be ended by this role; "
        f"an administrator can: SELECT pg_terminate_backend({pid});\n",
    )
    assert f"backend {pid} (leader lock; role postgres, safe_init " in ended.stdout
    assert "): this role may not see what it does\n" in ended.stdout
    assert is_there(django_database, pid)
    assert is_there(django_database, working.info.backend_pid)


def test_a_backend_that_does_not_end(
    run, django_database, leader, working, monkeypatch
) -> None:
    """The command names a session that survives ten seconds, and exits with 1."""
    monkeypatch.setattr(safe_init_unlock, "_SECONDS_TO_END", 0.2)
    pid = working.info.backend_pid
    os.kill(pid, signal.SIGSTOP)
    try:
        ended = run("--noinput")
    finally:
        os.kill(pid, signal.SIGCONT)
    assert (ended.code, ended.stderr) == (
        1,
        f"CommandError: Told to end, and not ended within 0.2 s: backend {pid}.\n",
    )


def test_only_the_backends_that_were_shown(django_database, session, leader) -> None:
    """The command does not terminate a later backend with the same process id."""
    pid = leader.session.handshake_pid
    early = "2001-01-01 00:00:00+00"
    assert terminate(session, pid, early)
    gone = LeaderSession(
        pid, True, "", "", None, early, 0, "idle", 0, False, [], 0, "SELECT 1"
    )
    assert terminate_sessions(session, [gone], 1) is None
    assert is_there(django_database, pid)


# Databases that cannot be read


def test_unknown_alias(run, django_database) -> None:
    """An unknown alias causes one line and exit code 2."""
    ended = run("--database", "nowhere")
    assert ended.code == 2
    assert ended.stderr.startswith("CommandError: There is no database 'nowhere'")


def test_another_engine(run, django_database, log_in_as) -> None:
    """An engine without a leader lock causes an error and exit code 2."""
    log_in_as(ENGINE="tests.other_engine", NAME=":memory:")
    try:
        ended = run()
    finally:
        log_in_as(**django_database.settings())
    assert ended.code == 2
    assert "No leader lock" in ended.stderr


def test_unreachable(run, django_database, log_in_as, settings) -> None:
    """An unreachable server causes one line and exit code 4."""
    settings.SAFE_INIT = {**settings.SAFE_INIT, "CONNECT_ATTEMPTS": 1}
    log_in_as(PORT="1")
    ended = run()
    assert ended.code == 4
    assert "CommandError: The database 'default' cannot be reached" in ended.stderr


def test_straight_to_the_server(run, django_database, leader, settings) -> None:
    """The command connects with DIRECT, past a pooler that the alias names."""
    direct = {"default": {"PORT": "1"}}
    settings.SAFE_INIT = {
        **settings.SAFE_INIT,
        "DIRECT": direct,
        "CONNECT_ATTEMPTS": 1,
    }
    assert run("--noinput").code == 4


@pytest.mark.parametrize("key", [leader_key(), work_key()])
def test_a_hostile_role(
    run, django_database, shop, connect_raw, new_role, log_in_as, key
) -> None:
    """The name of a role that may not be ended forges no line."""
    name = "r\n[safe_init] FORGED"
    hostile = connect_raw(user=new_role(name))
    hostile.execute("SELECT pg_advisory_lock(%s)", [leader_key()])
    hostile.execute("SELECT pg_advisory_lock_shared(%s)", [key])
    log_in_as(USER=new_role("other"))
    ended = run("--noinput")
    assert ended.code == 1
    assert r"of the role r\n[safe_init] FORGED may not be ended" in ended.stderr
    assert "\n[safe_init] FORGED" not in ended.stdout + ended.stderr
    hostile.close()
