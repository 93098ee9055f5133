"""The leader lock on real sessions: it excludes, it is verified, and its holder's rest is ended."""

from __future__ import annotations

import pytest

from django_safe_init.backends.postgresql.connect import connect, create_direct_wrapper
from django_safe_init.backends.postgresql.lock import AdvisoryLock
from django_safe_init.backends.postgresql.lock_keys import channel, leader_key, work_key
from django_safe_init.conf import Settings
from django_safe_init.core.deadline import Deadline
from django_safe_init.exceptions import LockLost, WaitTimeout
from django_safe_init.testing import LockContract
from tests.support import wait_until


class Contract(LockContract):
    contenders = 4

    @pytest.fixture(params=[18, 16], ids=["pg18", "pg16"])
    def version(self, request) -> int:
        return request.param

    @pytest.fixture(autouse=True)
    def _admin(self, django_database) -> None:
        self.database = django_database

    def kill_holder(self, lock: AdvisoryLock) -> None:
        pid = lock.session.handshake_pid
        self.database.rows("SELECT pg_terminate_backend(%s, 5000)", pid)


class OpenLock:
    """A lock whose session is closed at the end."""

    def __init__(self, lock_key: str | None) -> None:
        self.lock_key = lock_key

    def __enter__(self) -> AdvisoryLock:
        self.session = connect(
            create_direct_wrapper("default"), Settings(), Deadline(10), "safe_init test"
        )
        return AdvisoryLock(self.session, self.lock_key)

    def __exit__(self, *exc_info: object) -> None:
        self.session.close()


class TestLeaderLock(Contract):
    """The contract, for the lock of a project alone in its database."""

    def open_lock(self) -> OpenLock:
        return OpenLock(None)


class TestLeaderLockWithKey(Contract):
    """The contract, for the lock of one project of several."""

    def open_lock(self) -> OpenLock:
        return OpenLock("shop")


@pytest.fixture
def lock(session) -> AdvisoryLock:
    """A lock that is held."""
    lock = AdvisoryLock(session)
    assert lock.try_acquire()
    return lock


def test_the_key_is_what_pg_locks_shows(lock, django_database) -> None:
    """The lock is where other tools, and our own readers, look for it."""
    assert django_database.holders(leader_key()) == [lock.session.handshake_pid]


def test_projects_do_not_exclude_each_other(lock, open_session) -> None:
    """Two projects of one database with different LOCK_KEYs lead at the same time."""
    other = AdvisoryLock(open_session(), "other")
    assert other.try_acquire()
    lock.verify()
    other.verify()


def test_databases_do_not_exclude_each_other(lock, make_database, log_in_as) -> None:
    """A leader of another database of the server is none of ours."""
    log_in_as(NAME=make_database().name)
    with OpenLock(None) as other:
        with pytest.raises(LockLost):
            other.verify()
        assert other.try_acquire()
        other.verify()


def test_losing_the_session_is_losing_the_lock(lock, django_database) -> None:
    """After `pg_terminate_backend` the lock says why it is lost."""
    pid = lock.session.handshake_pid
    django_database.rows("SELECT pg_terminate_backend(%s, 5000)", pid)
    with pytest.raises(LockLost, match="The leader session is gone: terminating"):
        lock.verify()
    with pytest.raises(LockLost, match="The leader session is gone"):
        lock.release()


def test_unlocked_by_somebody(lock) -> None:
    """A lock that somebody freed in this session is lost, too, and said to be."""
    lock.session.rows("SELECT pg_advisory_unlock_all()")
    with pytest.raises(LockLost, match="no longer holds the leader lock"):
        lock.verify()
    with pytest.raises(LockLost, match="was not held any more"):
        lock.release()


def test_release_twice(lock) -> None:
    """The second release is an error."""
    lock.release()
    with pytest.raises(LockLost):
        lock.release()


def test_release_wakes(lock, raw_session) -> None:
    """Who listens is told at the release."""
    raw_session.execute(f"LISTEN {channel()}")
    lock.release()
    [notification] = raw_session.notifies(timeout=5, stop_after=1)
    assert notification.channel == channel()


# What an earlier leader left running


def hold_work_key(raw) -> int:
    raw.execute("SELECT pg_try_advisory_lock_shared(%s)", [work_key()])
    return raw.info.backend_pid


def is_there(database, pid: int) -> bool:
    return bool(database.rows("SELECT 1 FROM pg_stat_activity WHERE pid = %s", pid))


def terminate_predecessors(lock, seconds: float = 10) -> list[str]:
    said: list[str] = []
    lock.terminate_predecessors(said.append, Deadline(seconds))
    return said


def test_predecessors_are_ended(lock, django_database, connect_raw) -> None:
    """Every backend with the work key is gone afterwards, idle or not; others stay."""
    working = [connect_raw() for _ in range(3)]
    bystander = connect_raw()
    pids = [hold_work_key(raw) for raw in working]
    working[0].execute("BEGIN; CREATE TABLE left_over ()")
    assert terminate_predecessors(lock) == []
    assert not any(is_there(django_database, pid) for pid in pids)
    assert bystander.execute("SELECT 1").fetchone()
    assert django_database.value("SELECT to_regclass('left_over')") is None


def test_a_statement_of_a_predecessor_is_ended(
    lock, django_database, raw_session, in_background
) -> None:
    """A statement that still runs does not finish."""
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


def test_nothing_to_end(lock) -> None:
    """Without predecessors it returns at once, and leaves this session alone."""
    hold_work_key(lock.session.raw)
    assert terminate_predecessors(lock, 0) == []
    lock.verify()


def test_another_roles_predecessor(
    django_database, log_in_as, new_role, open_session, raw_session
) -> None:
    """A backend that this role may not end is named once, waited for, and then given up."""
    log_in_as(USER=new_role("small"))
    lock = AdvisoryLock(open_session())
    assert lock.try_acquire()
    pid = hold_work_key(raw_session)
    said: list[str] = []
    with pytest.raises(WaitTimeout) as caught:
        lock.terminate_predecessors(said.append, Deadline(0.2))
    [line] = said
    assert line == (
        f"Work of an earlier leader goes on. Backend {pid} of the role postgres may not "
        f"be ended by this role; an administrator can: SELECT pg_terminate_backend({pid});"
    )
    assert line in str(caught.value)
    assert is_there(django_database, pid)
    raw_session.execute("SELECT pg_advisory_unlock_all()")
    assert terminate_predecessors(lock) == []


def test_assumed_role(django_database, log_in_as, new_role, open_session, connect_raw):
    """The role that logged in ends a predecessor, though another one is assumed."""
    owner, login = new_role("owner"), new_role("login")
    django_database.rows(f"GRANT {owner} TO {login}")
    log_in_as(USER=login, OPTIONS={"assume_role": owner})
    session = open_session()
    session.apply_session_settings()
    lock = AdvisoryLock(session)
    assert lock.try_acquire()
    pid = hold_work_key(connect_raw(user=login))
    assert terminate_predecessors(lock) == []
    assert not is_there(django_database, pid)
    assert session.rows("SELECT current_user") == [(owner,)]
