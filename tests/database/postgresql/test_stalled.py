"""A leader without a heartbeat is ended; a leader with one is not."""

from __future__ import annotations

import dataclasses

import pytest

from django_safe_init.backends.postgresql import stalled
from django_safe_init.backends.postgresql.lock import AdvisoryLock
from django_safe_init.backends.postgresql.lock_keys import leader_key, work_key
from django_safe_init.backends.postgresql.observer import PostgresObserver
from django_safe_init.backends.postgresql.recorder import PostgresRecorder
from django_safe_init.backends.postgresql.schema import ensure_tables
from django_safe_init.conf import get_settings
from django_safe_init.core.build import current_build
from django_safe_init.core.deadline import Deadline
from django_safe_init.core.heartbeat import Heartbeat
from django_safe_init.core.records import RUN_TABLE, LeaderSnapshot, leader_name
from django_safe_init.core.states import State
from django_safe_init.initialization.initializer import Initializer
from django_safe_init.initialization.migrate_command import run_migrate
from django_safe_init.initialization.types import InitializationOptions, MigrateTask
from tests.support import make_context, wait_until

AFTER, GRACE = 0.6, 0.2


class Follower:
    """An observer that checks for a stalled leader; its messages are in `lines`."""

    def __init__(self) -> None:
        settings = dataclasses.replace(get_settings(), stalled_after=AFTER)
        self.lines: list[str] = []
        context = make_context(settings=settings, report=self.lines.append)
        self.observer = PostgresObserver(context)

    def end_stalled(self, *, readable: bool = True) -> bool:
        reader = self.observer.reader()
        peeked = (
            reader.peek() if readable else LeaderSnapshot(None, reader.leader_pid())
        )
        return self.observer.end_stalled(peeked)

    def wait_for_end(self, *, readable: bool = True) -> None:
        wait_until(lambda: self.end_stalled(readable=readable))

    def assert_not_ended(self, database, seconds: float = 1.2, **how: bool) -> None:
        """Check for the given seconds of the server's clock that the leader is not ended."""
        until = database.value(f"SELECT clock_timestamp() + interval '{seconds} s'")

        def over() -> bool:
            assert not self.end_stalled(**how), self.lines
            return database.value("SELECT clock_timestamp() > %s", until)

        wait_until(over)


@pytest.fixture
def follower(django_database, small_shop, monkeypatch):
    monkeypatch.setattr(stalled, "_SECONDS_OF_GRACE", GRACE)
    made = Follower()
    yield made
    made.observer.close()


@pytest.fixture
def leader(open_session, small_shop) -> PostgresRecorder:
    """Return a leader with the lock and a run, whose process is stopped."""
    session = open_session("safe_init leader")
    assert AdvisoryLock(session).try_acquire()
    ensure_tables(session)
    recorder = PostgresRecorder(session, current_build(), None)
    recorder.open_run("test")
    recorder.update(State.MIGRATING, "shop.0001_initial")
    return recorder


def test_a_silent_leader_is_ended(
    follower, leader, django_database, connect_raw
) -> None:
    """The sessions of a silent leader are terminated, and the follower reports it."""
    working = connect_raw()
    working.execute("SELECT pg_advisory_lock_shared(%s)", [work_key()])
    working.execute("BEGIN")
    follower.wait_for_end()
    assert django_database.holders(leader_key()) == []
    assert django_database.holders(work_key()) == []
    [line] = follower.lines
    name = django_database.newest_run()["leader"]
    assert line == (
        f"the leader {name} of run {leader.run_id} has given no sign of life for 1 s: "
        "its sessions were ended."
    )


def test_off(follower, leader, django_database) -> None:
    """Without STALLED_AFTER no leader is ended."""
    follower.observer.context = make_context()
    follower.assert_not_ended(django_database)


def test_a_heartbeat(follower, leader, django_database) -> None:
    """A leader is not ended as long as it has a heartbeat."""
    with Heartbeat(leader.heartbeat, 0.05):
        follower.assert_not_ended(django_database)
    follower.wait_for_end()


def test_locked_tables(follower, leader, django_database, connect_raw) -> None:
    """A leader is not ended while its heartbeat cannot be written, and is after it goes silent."""
    connect_raw().execute(f"BEGIN; LOCK TABLE {RUN_TABLE}")
    leader.session.rows("SET lock_timeout = '50ms'")
    with Heartbeat(leader.heartbeat, 0.05):
        follower.assert_not_ended(django_database, readable=False)
        assert not leader.session.raw.closed
    follower.wait_for_end(readable=False)
    pid = leader.session.handshake_pid
    assert follower.lines[0].startswith(f"a leader (backend {pid}) has given no sign")


def test_before_its_run(follower, session, django_database) -> None:
    """A leader that has opened no run yet has a heartbeat."""
    lock = AdvisoryLock(session)
    assert lock.try_acquire()
    with Heartbeat(lock.verify, 0.05):
        follower.assert_not_ended(django_database)
    follower.wait_for_end()


def test_the_heartbeat_starts_with_the_lock(django_database, small_shop) -> None:
    """The heartbeat starts with the lock, because system checks may be slow."""
    moved = (
        "SELECT query_start > %s + interval '1 s' FROM pg_stat_activity WHERE pid = %s"
    )

    def slow_checks(deadline: Deadline) -> None:
        [pid] = django_database.holders(leader_key())
        now = django_database.value("SELECT clock_timestamp()")
        wait_until(lambda: django_database.value(moved, now, pid))

    task = MigrateTask(lambda: run_migrate("default"), "test")
    outcome = Initializer(InitializationOptions(task, run_checks=slow_checks)).run()
    assert outcome.role == "leader"


def test_a_statement_of_the_leader_session(
    follower, leader, django_database, in_background
) -> None:
    """A leader is not ended while its leader session runs a statement."""
    sleeping = in_background(lambda: leader.session.rows("SELECT pg_sleep(1.5)"))
    follower.assert_not_ended(django_database)
    sleeping.result()


def test_the_server_slept(follower, leader, django_database) -> None:
    """A silence that no follower observed does not end a leader; the server may have slept."""
    stale = f"UPDATE {RUN_TABLE} SET heartbeat_at = heartbeat_at - interval '1 h'"
    silent = (
        "SELECT clock_timestamp() - state_change > interval '0.7 s'"
        " FROM pg_stat_activity WHERE pid = %s"
    )
    django_database.rows(stale)
    wait_until(lambda: django_database.value(silent, leader.session.handshake_pid))
    assert not follower.end_stalled()
    leader.heartbeat()
    assert not follower.end_stalled()
    follower.wait_for_end()


def test_a_sign_of_life_of_the_session_only(follower, leader, django_database) -> None:
    """A statement of the leader session clears the suspicion."""
    wait_until(
        lambda: (
            follower.end_stalled(readable=False) or follower.observer._stalled._suspect
        )
    )
    leader.session.rows("SELECT 1")
    assert not follower.end_stalled(readable=False)
    assert follower.observer._stalled._suspect is None


def test_another_programs_lock(follower, django_database, connect_raw) -> None:
    """Another program's session that holds the leader lock is not ended."""
    connect_raw().execute("SELECT pg_advisory_lock(%s)", [leader_key()])
    follower.assert_not_ended(django_database)


def test_no_leader(follower, django_database, connect_raw) -> None:
    """Without a leader no session is ended, even if one holds the work key."""
    assert not follower.end_stalled()
    connect_raw().execute("SELECT pg_advisory_lock_shared(%s)", [work_key()])
    follower.assert_not_ended(django_database)


def test_another_roles_leader(
    follower, leader, django_database, new_role, log_in_as
) -> None:
    """If the server refuses to terminate the leader, the follower reports it once and waits."""
    role = new_role("small")
    django_database.rows(f"GRANT SELECT ON {RUN_TABLE} TO {role}")
    log_in_as(USER=role)
    wait_until(lambda: follower.end_stalled() or follower.lines)
    follower.assert_not_ended(django_database)
    [line] = follower.lines
    pid = leader.session.handshake_pid
    assert line.startswith(f"the leader {leader_name()} of run ")
    assert line.endswith(
        f" s. Backend {pid} of the role postgres may not be ended by this role; "
        f"an administrator can: SELECT pg_terminate_backend({pid});"
    )
    assert django_database.holders(leader_key()) == [pid]


def test_another_roles_leader_that_cannot_be_read(
    follower, leader, django_database, new_role, log_in_as
) -> None:
    """A leader whose session and run are not visible to this role is not ended."""
    log_in_as(USER=new_role("blind"))
    follower.assert_not_ended(django_database, readable=False)
    assert follower.lines == []
