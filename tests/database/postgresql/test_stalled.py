"""A leader without a sign of life is ended; one that gives any is not."""

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
from django_safe_init.core.heartbeat import Heartbeat
from django_safe_init.core.records import RUN_TABLE, LeaderSnapshot
from django_safe_init.core.states import State
from django_safe_init.initialization.initializer import Initializer
from django_safe_init.initialization.migrate_command import run_migrate
from django_safe_init.initialization.types import InitializationOptions, MigrateTask
from tests.support import make_context, wait_until

AFTER, GRACE = 0.6, 0.2


class Follower:
    """Looks at a leader as a follower does; what it says is in `lines`."""

    def __init__(self) -> None:
        settings = dataclasses.replace(get_settings(), stalled_after=AFTER)
        self.lines: list[str] = []
        context = make_context(settings=settings, report=self.lines.append)
        self.observer = PostgresObserver(context)

    def look(self, *, readable: bool = True) -> bool:
        reader = self.observer.reader()
        glance = (
            reader.peek() if readable else LeaderSnapshot(None, reader.leader_pid())
        )
        return self.observer.end_stalled(glance)

    def ends_it(self, *, readable: bool = True) -> None:
        wait_until(lambda: self.look(readable=readable))

    def lets_live(self, database, seconds: float = 1.2, **how: bool) -> None:
        """For so many seconds, by the server's clock."""
        until = database.value(f"SELECT clock_timestamp() + interval '{seconds} s'")

        def over() -> bool:
            assert not self.look(**how), self.lines
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
    """A leader with the lock and a run, whose process has just been stopped."""
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
    """Its session and those that hold the work key are gone, and it is said."""
    working = connect_raw()
    working.execute("SELECT pg_advisory_lock_shared(%s)", [work_key()])
    working.execute("BEGIN")
    follower.ends_it()
    assert django_database.holders(leader_key()) == []
    assert django_database.holders(work_key()) == []
    [line] = follower.lines
    name = django_database.newest_run()["leader"]
    assert line == (
        f"the leader ({name}) has given no sign of life for 1 s: its sessions were ended."
    )


def test_off(follower, leader, django_database) -> None:
    """Without the setting nobody is ended, however silent."""
    follower.observer.context = make_context()
    follower.lets_live(django_database)


def test_a_heartbeat_is_a_sign_of_life(follower, leader, django_database) -> None:
    """A leader that does nothing but give signs of life is not ended, until it stops."""
    with Heartbeat(leader.heartbeat, 0.05):
        follower.lets_live(django_database)
    follower.ends_it()


def test_locked_tables(follower, leader, django_database, connect_raw) -> None:
    """A leader whose heartbeat cannot be written is not ended, and is once it is silent."""
    connect_raw().execute(f"BEGIN; LOCK TABLE {RUN_TABLE}")
    leader.session.rows("SET lock_timeout = '50ms'")
    with Heartbeat(leader.heartbeat, 0.05):
        follower.lets_live(django_database, readable=False)
        assert not leader.session.raw.closed
    follower.ends_it(readable=False)
    pid = leader.session.handshake_pid
    assert follower.lines[0].startswith(f"the leader (backend {pid}) has given no sign")


def test_before_its_run(follower, session, django_database) -> None:
    """A leader that has opened no run yet gives its sign of life as well."""
    lock = AdvisoryLock(session)
    assert lock.try_acquire()
    with Heartbeat(lock.verify, 0.05):
        follower.lets_live(django_database)
    follower.ends_it()


def test_signs_of_life_before_its_run(django_database, small_shop) -> None:
    """They begin with the lock: system checks may take longer than a silence may."""
    moved = (
        "SELECT query_start > %s + interval '1 s' FROM pg_stat_activity WHERE pid = %s"
    )

    def slow_checks() -> None:
        [pid] = django_database.holders(leader_key())
        now = django_database.value("SELECT clock_timestamp()")
        wait_until(lambda: django_database.value(moved, now, pid))

    task = MigrateTask(lambda: run_migrate("default"), "test")
    outcome = Initializer(
        InitializationOptions(task, on_lock_acquired=slow_checks)
    ).run()
    assert outcome.role == "leader"


def test_a_statement_of_the_leader_session(
    follower, leader, django_database, in_background
) -> None:
    """While the leader session itself runs a statement, the leader is not silent."""
    sleeping = in_background(lambda: leader.session.rows("SELECT pg_sleep(1.5)"))
    follower.lets_live(django_database)
    sleeping.result()


def test_the_server_slept(follower, leader, django_database) -> None:
    """A silence that nobody has watched ends no leader: the server may have slept itself."""
    stale = f"UPDATE {RUN_TABLE} SET heartbeat_at = heartbeat_at - interval '1 h'"
    silent = (
        "SELECT clock_timestamp() - state_change > interval '0.7 s'"
        " FROM pg_stat_activity WHERE pid = %s"
    )
    django_database.rows(stale)
    wait_until(lambda: django_database.value(silent, leader.session.handshake_pid))
    assert not follower.look()
    leader.heartbeat()
    assert not follower.look()
    follower.ends_it()


def test_after_a_pause_it_is_watched_anew(follower, leader, django_database) -> None:
    """A sign of life that only the session shows counts, too: suspicion starts anew."""
    wait_until(
        lambda: follower.look(readable=False) or follower.observer._stalled._suspect
    )
    leader.session.rows("SELECT 1")
    assert not follower.look(readable=False)
    assert follower.observer._stalled._suspect is None


def test_somebody_who_keeps_all_leaders_away(
    follower, django_database, connect_raw
) -> None:
    """A session that is none of ours has no heartbeat, and is not ended for that."""
    connect_raw().execute("SELECT pg_advisory_lock(%s)", [leader_key()])
    follower.lets_live(django_database)


def test_nobody_leads(follower, django_database, connect_raw) -> None:
    """Where nobody leads there is nobody to be ended, whatever an earlier leader left."""
    assert not follower.look()
    connect_raw().execute("SELECT pg_advisory_lock_shared(%s)", [work_key()])
    follower.lets_live(django_database)


def test_another_roles_leader(
    follower, leader, django_database, new_role, log_in_as
) -> None:
    """Where the server refuses, it is said once, with the SQL, and the waiting goes on."""
    role = new_role("small")
    django_database.rows(f"GRANT SELECT ON {RUN_TABLE} TO {role}")
    log_in_as(USER=role)
    wait_until(lambda: follower.look() or follower.lines)
    follower.lets_live(django_database)
    [line] = follower.lines
    pid = leader.session.handshake_pid
    assert line.startswith("the leader (")
    assert line.endswith(
        f" s. Backend {pid} of the role postgres may not be ended by this role; "
        f"an administrator can: SELECT pg_terminate_backend({pid});"
    )
    assert django_database.holders(leader_key()) == [pid]


def test_another_roles_leader_that_cannot_be_read(
    follower, leader, django_database, new_role, log_in_as
) -> None:
    """Where neither the session nor the run can be seen, nothing is known of silence."""
    log_in_as(USER=new_role("blind"))
    follower.lets_live(django_database, readable=False)
    assert follower.lines == []
