"""The leader lock on real sessions: exclusion, verification, the end of predecessors."""

from __future__ import annotations

import os

import pytest

from django_safe_init.backends.postgresql.lock import AdvisoryLock, BorrowedLock
from django_safe_init.backends.postgresql.lock_keys import channel, leader_key, work_key
from django_safe_init.backends.postgresql.reader import PostgresReader
from django_safe_init.core.build import current_build
from django_safe_init.core.deadline import Deadline
from django_safe_init.core.records import leader_of
from django_safe_init.exceptions import LockLost, WaitTimeout
from tests.support import wait_until


@pytest.fixture
def lock(session) -> AdvisoryLock:
    """Return a held lock."""
    lock = AdvisoryLock(session)
    assert lock.try_acquire()
    return lock


def test_the_key_in_pg_locks(lock, django_database) -> None:
    """The lock appears in `pg_locks` under the leader key."""
    assert django_database.holders(leader_key()) == [lock.session.handshake_pid]


def test_projects_do_not_exclude_each_other(lock, open_session) -> None:
    """Two projects with different LOCK_KEYs lead in one database at the same time."""
    other = AdvisoryLock(open_session(), "other")
    assert other.try_acquire()
    lock.verify()
    other.verify()


def test_databases_do_not_exclude_each_other(
    lock, make_database, log_in_as, open_session
) -> None:
    """Leaders of two databases of one server do not exclude each other."""
    log_in_as(NAME=make_database().name)
    other = AdvisoryLock(open_session())
    with pytest.raises(LockLost):
        other.verify()
    assert other.try_acquire()
    other.verify()


@pytest.mark.parametrize(
    ("host", "named"),
    [("web-1", "web-1"), ("x" * 64, "x" * (52 - len(str(os.getpid()))))],
)
def test_the_name_of_a_leader(
    open_session, django_database, monkeypatch, host, named
) -> None:
    """The session that gets the lock names its process; another one keeps its name."""
    monkeypatch.setattr("socket.gethostname", lambda: host)
    for session in (open_session("safe_init a"), open_session("safe_init b")):
        AdvisoryLock(session).try_acquire()
    leader = f"{named}:{os.getpid()}"
    names = [each["application_name"] for each in django_database.backends()]
    assert set(names) == {f"safe_init {leader}", "safe_init b"}
    assert max(map(len, names)) <= 63
    reader = PostgresReader(open_session(), current_build(), None)
    assert reader.leader_session() == f"the leader {leader}"


@pytest.mark.parametrize(
    "name",
    ["", "psql", "safe_init waiting", "safe_init 1/2 shop.0001", "psql safe_init a:1"],
)
def test_the_name_of_another_session(name) -> None:
    """Any other name, also of a session in a run, names no leader."""
    assert leader_of(name) == ""


def test_a_terminated_session(lock, django_database) -> None:
    """After `pg_terminate_backend` the lock raises `LockLost` with the reason."""
    pid = lock.session.handshake_pid
    django_database.rows("SELECT pg_terminate_backend(%s, 5000)", pid)
    with pytest.raises(LockLost, match="The leader session is gone: terminating"):
        lock.verify()
    with pytest.raises(LockLost, match="The leader session is gone"):
        lock.release()


def test_a_terminated_session_of_a_worker(lock, open_session, django_database) -> None:
    """A worker sees on a session of its own if its leader leads, or raises `LockLost`."""
    borrowed = BorrowedLock(open_session(), None, lock.leader_pid)
    borrowed.verify()
    pid = borrowed.session.handshake_pid
    django_database.rows("SELECT pg_terminate_backend(%s, 5000)", pid)
    with pytest.raises(LockLost, match="terminating connection"):
        borrowed.verify()
    lock.verify()


def test_unlocked_in_the_session(lock) -> None:
    """A lock that was released by other SQL in its session raises `LockLost`."""
    lock.session.rows("SELECT pg_advisory_unlock_all()")
    with pytest.raises(LockLost, match="no longer holds the leader lock"):
        lock.verify()
    with pytest.raises(LockLost, match="was not held any more"):
        lock.release()


def test_release_twice(lock) -> None:
    """The second release raises `LockLost`."""
    lock.release()
    with pytest.raises(LockLost):
        lock.release()


def test_release_notifies(lock, raw_session) -> None:
    """A listener gets a notification at the release."""
    raw_session.execute(f"LISTEN {channel()}")
    lock.release()
    [notification] = raw_session.notifies(timeout=5, stop_after=1)
    assert notification.channel == channel()


# Predecessors


def hold_work_key(raw) -> int:
    raw.execute("SELECT pg_try_advisory_lock_shared(%s)", [work_key()])
    return raw.info.backend_pid


def is_connected(database, pid: int) -> bool:
    return bool(database.rows("SELECT 1 FROM pg_stat_activity WHERE pid = %s", pid))


def terminate_predecessors(lock, seconds: float = 10) -> list[str]:
    lines: list[str] = []
    lock.terminate_predecessors(lines.append, Deadline(seconds))
    return lines


def test_predecessors_are_terminated(lock, django_database, connect_raw) -> None:
    """Every backend with the work key is terminated, idle or not; other backends stay."""
    working = [connect_raw() for _ in range(3)]
    bystander = connect_raw()
    pids = [hold_work_key(raw) for raw in working]
    working[0].execute("BEGIN; CREATE TABLE left_over ()")
    assert terminate_predecessors(lock) == []
    assert not any(is_connected(django_database, pid) for pid in pids)
    assert bystander.execute("SELECT 1").fetchone()
    assert django_database.value("SELECT to_regclass('left_over')") is None


def test_a_statement_of_a_predecessor_is_terminated(
    lock, django_database, raw_session, in_background
) -> None:
    """A predecessor's running statement does not finish."""
    import psycopg

    pid = hold_work_key(raw_session)
    sleeping = in_background(lambda: raw_session.execute("SELECT pg_sleep(60)"))
    wait_until(
        lambda: django_database.value(
            "SELECT state = 'active' FROM pg_stat_activity WHERE pid = %s", pid
        )
    )
    terminate_predecessors(lock)
    with pytest.raises(psycopg.errors.AdminShutdown):
        sleeping.result()


def test_no_predecessors(lock) -> None:
    """Without predecessors the lock returns at once and does not terminate its own session."""
    hold_work_key(lock.session.raw)
    assert terminate_predecessors(lock, 0) == []
    lock.verify()


def test_another_roles_predecessor(
    django_database, log_in_as, new_role, open_session, raw_session
) -> None:
    """A predecessor that this role may not terminate is reported once, and the wait times out."""
    log_in_as(USER=new_role("small"))
    lock = AdvisoryLock(open_session())
    assert lock.try_acquire()
    pid = hold_work_key(raw_session)
    lines: list[str] = []
    with pytest.raises(WaitTimeout) as caught:
        lock.terminate_predecessors(lines.append, Deadline(0.2))
    [line] = lines
    assert line == (
        f"Work of an earlier leader goes on. Backend {pid} of the role postgres "
        "(test observer, no address to be seen) may not "
        f"be ended by this role; an administrator can: SELECT pg_terminate_backend({pid});"
    )
    assert str(caught.value) == (
        "Work that an earlier leader left running did not end in time: "
        f"backend {pid} (role postgres, test observer, no address to be seen). "
        f"To end that, as an administrator: SELECT pg_terminate_backend({pid});"
    )
    assert is_connected(django_database, pid)
    raw_session.execute("SELECT pg_advisory_unlock_all()")
    assert terminate_predecessors(lock) == []


def test_assumed_role(django_database, log_in_as, new_role, open_session, connect_raw):
    """The login role terminates a predecessor although another role is assumed."""
    owner, login = new_role("owner"), new_role("login")
    django_database.rows(f"GRANT {owner} TO {login}")
    log_in_as(USER=login, OPTIONS={"assume_role": owner})
    session = open_session()
    session.apply_session_settings()
    lock = AdvisoryLock(session)
    assert lock.try_acquire()
    pid = hold_work_key(connect_raw(user=login))
    assert terminate_predecessors(lock) == []
    assert not is_connected(django_database, pid)
    assert session.rows("SELECT current_user") == [(owner,)]
