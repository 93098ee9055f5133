"""The fenced connections of a run on PostgreSQL."""

from __future__ import annotations

import threading

import psycopg
import pytest
from django.db import connection, connections
from django.db.backends.signals import connection_created

from django_safe_init.backends.base.lock import LockWaitTimeout
from django_safe_init.backends.postgresql import run_connections
from django_safe_init.backends.postgresql.lock import AdvisoryLock
from django_safe_init.backends.postgresql.lock_keys import work_key
from django_safe_init.backends.postgresql.run_connections import FencedConnections
from django_safe_init.conf import get_settings
from django_safe_init.core.deadline import Deadline
from django_safe_init.exceptions import LockLost, UnsafeConnection
from tests.database.postgresql.test_session import exit_code, fork
from tests.support import PATIENCE, wait_until

pytestmark = pytest.mark.every_django


@pytest.fixture
def lock(session) -> AdvisoryLock:
    lock = AdvisoryLock(session)
    assert lock.try_acquire()
    return lock


@pytest.fixture
def fenced(lock) -> FencedConnections:
    return FencedConnections("default", lock, None)


def my_pid(alias: str = "default") -> int:
    """Return the backend pid of this thread's Django connection."""
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return cursor.fetchone()[0]


def in_thread(function):
    """Return the function's result, called in a new thread."""
    found = []

    def run() -> None:
        try:
            found.append(function())
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(PATIENCE)
    return found[0]


def test_a_connection_of_the_run(fenced, django_database) -> None:
    """Django's connection holds the work key and notices a dead client."""
    with fenced:
        assert django_database.holders(work_key()) == []
        pid = my_pid()
        assert django_database.holders(work_key()) == [pid]
        with connection.cursor() as cursor:
            cursor.execute("SHOW client_connection_check_interval")
            assert cursor.fetchone() == ("100ms",)
    wait_until(lambda: not django_database.holders(work_key()))


def test_a_reconnection(fenced, django_database) -> None:
    """A migration that closes its connection gets a new one that holds the work key."""
    with fenced:
        first = my_pid()
        connection.close()
        second = my_pid()
        assert first != second
        wait_until(lambda: django_database.holders(work_key()) == [second])


def test_threads_of_the_run(fenced, django_database) -> None:
    """A thread started by the run has a connection that holds the work key."""
    with fenced:
        assert in_thread(lambda: my_pid() in django_database.holders(work_key()))


def test_other_threads(fenced, lock, django_database) -> None:
    """A thread that existed before the run has an ordinary connection."""
    go, done, found = threading.Event(), threading.Event(), []

    def work() -> None:
        go.wait(PATIENCE)
        my_pid()
        found.append(connection.settings_dict["OPTIONS"])
        found.append(django_database.holders(work_key()))
        connection.close()
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    with FencedConnections("default", lock, None):
        go.set()
        assert done.wait(PATIENCE)
    thread.join()
    assert found == [{}, []]


def test_other_aliases(fenced, django_database, make_database, monkeypatch) -> None:
    """A connection to another alias is not fenced."""
    other = make_database()
    configured = connections.configure_settings(
        {"default": {}, "other": other.settings()}
    )
    monkeypatch.setitem(connections.settings, "other", configured["other"])
    with fenced:
        my_pid("other")
        assert other.holders(work_key()) == []
        assert django_database.holders(work_key()) == []
    connections["other"].close()
    del connections["other"]


def test_two_aliases_at_once(lock, monkeypatch) -> None:
    """The end of one alias's run does not affect the run of another alias."""
    configured = connections.configure_settings(
        {"default": {}, "other": connections.settings["default"]}
    )
    monkeypatch.setitem(connections.settings, "other", configured["other"])
    with FencedConnections("default", lock, None):
        with FencedConnections("other", lock, None):
            pass
        assert in_thread(lambda: connections["default"].settings_dict["OPTIONS"])
    assert "create_connection" not in vars(connections)


def test_a_connection_after_the_loss_of_the_lock(fenced, lock, django_database) -> None:
    """A connection opened after the loss of the leader lock is closed before its first query."""
    with fenced:
        my_pid()
        connection.close()
        lock.session.rows("SELECT pg_advisory_unlock_all()")
        with pytest.raises(LockLost):
            my_pid()
        assert connection.connection is None
        with pytest.raises(LockLost):
            my_pid()
    wait_until(lambda: not django_database.holders(work_key()))


def test_a_pool_is_not_used(fenced, log_in_as, django_database) -> None:
    """A run's connections bypass the pool, which would hand them to other threads later."""
    log_in_as(OPTIONS={"pool": {"min_size": 1, "max_size": 2}})
    with fenced as wrapper:
        my_pid()
        assert "pool" not in wrapper.settings_dict["OPTIONS"]
        assert (
            in_thread(
                lambda: (my_pid(), "pool" in connection.settings_dict["OPTIONS"])[1]
            )
            is False
        )
    assert "pool" in connections.settings["default"]["OPTIONS"]
    assert my_pid() not in django_database.holders(work_key())
    connection.close()
    connection.close_pool()


def test_two_runs_of_one_alias(
    lock, open_session, django_database, in_background
) -> None:
    """A leader that lost its lock may unwind while another thread of its process leads."""
    entered, unwind = threading.Event(), threading.Event()

    def lead() -> None:
        with FencedConnections("default", lock, None):
            entered.set()
            assert unwind.wait(PATIENCE)

    first = in_background(lead)
    assert entered.wait(PATIENCE)
    lock.session.close()
    following = AdvisoryLock(open_session())
    wait_until(following.try_acquire)
    with FencedConnections("default", following, None):
        # A new thread could belong to either run, so it gets no connection.
        assert in_thread(raises_lock_lost)
        unwind.set()
        first.result()
        assert in_thread(lambda: my_pid() in django_database.holders(work_key()))
    assert in_thread(lambda: my_pid() not in django_database.holders(work_key()))
    assert "create_connection" not in vars(connections)


def raises_lock_lost() -> bool:
    with pytest.raises(LockLost):
        my_pid()
    return True


def test_direct_settings_reach_the_threads(lock, django_database) -> None:
    """DIRECT applies to the connections of the run's threads until the run ends."""
    direct = {"OPTIONS": {"options": "-c work_mem=777kB"}}

    def work_mem() -> str:
        with connection.cursor() as cursor:
            cursor.execute("SHOW work_mem")
            return cursor.fetchone()[0]

    with FencedConnections("default", lock, direct):
        assert work_mem() == "777kB"
        assert in_thread(work_mem) == "777kB"
    assert work_mem() == "4MB"
    assert in_thread(work_mem) == "4MB"


def test_the_previous_wrapper_is_restored(fenced) -> None:
    """The caller's wrapper and its connection are restored."""
    before = connections["default"]
    pid = my_pid()
    with fenced as wrapper:
        assert connections["default"] is wrapper
        assert my_pid() != pid
    assert connections["default"] is before
    assert my_pid() == pid


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("step", ["create_direct_wrapper", "retry_when_busy"])
def test_an_error_on_entering(fenced, monkeypatch, error, step) -> None:
    """An error of each step restores the wrapper, the receivers and the handler."""
    before, count = connections["default"], len(connection_created.receivers)

    def fail(*args, **kwargs) -> None:
        raise error

    monkeypatch.setattr(run_connections, step, fail)
    with pytest.raises(error):
        fenced.__enter__()
    assert connections["default"] is before
    assert len(connection_created.receivers) == count
    assert "create_connection" not in vars(connections)


def test_no_previous_wrapper(fenced) -> None:
    """A thread that had no wrapper has none afterwards."""
    connections["default"].close()
    del connections["default"]
    with fenced:
        my_pid()
    assert not hasattr(connections._connections, "default")


def test_without_autocommit(fenced, log_in_as, django_database) -> None:
    """With AUTOCOMMIT = False the connection holds the work key and is not in a transaction."""
    log_in_as(AUTOCOMMIT=False)
    try:
        with fenced:
            connection.ensure_connection()
            raw = connection.connection
            assert raw.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
            assert django_database.holders(work_key()) == [raw.info.backend_pid]
    finally:
        log_in_as(AUTOCOMMIT=True)


def test_a_pooler_is_refused(fenced, monkeypatch) -> None:
    """A connection whose handshake named another backend is refused and closed."""
    with fenced:
        _fake_a_pooler(monkeypatch)
        with pytest.raises(UnsafeConnection, match=r'SAFE_INIT\["DIRECT"\]'):
            connection.ensure_connection()
        assert connection.connection is None


def test_a_declared_pooler(lock, monkeypatch, django_database) -> None:
    """DIRECT declares that sessions are kept, so a connection through a pooler is accepted."""
    with FencedConnections("default", lock, {}):
        _fake_a_pooler(monkeypatch)
        connection.ensure_connection()
        assert len(django_database.holders(work_key())) == 1


def _fake_a_pooler(monkeypatch) -> None:
    """Give each connection a false backend pid, as a pooler does."""
    monkeypatch.setattr(psycopg.ConnectionInfo, "backend_pid", property(lambda _: 1))


# A migration that forks


def test_a_forked_child_works_while_its_parent_leads(fenced, django_database) -> None:
    """A forked child's own connection holds the work key while its parent leads."""

    def work() -> None:
        connection.connection = None  # the parent's, which a child must not use
        assert holds_work_key()

    def holds_work_key() -> bool:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
                " AND pid = pg_backend_pid() AND mode = 'ShareLock'"
            )
            return cursor.fetchone() == (1,)

    with fenced:
        assert exit_code(fork(work)) == 0


def test_a_forked_child_stops_when_its_parent_lost(fenced, lock) -> None:
    """A forked child opens no connection after its parent lost the lock."""

    def work() -> None:
        with pytest.raises(LockLost, match="no longer leads"):
            my_pid()

    with fenced:
        lock.session.rows("SELECT pg_advisory_unlock_all()")
        assert exit_code(fork(work)) == 0


def test_an_exclusive_work_key(fenced, raw_session) -> None:
    """A connection waits until no other session holds the work key exclusively."""
    raw_session.execute("SELECT pg_advisory_lock(%s)", [work_key()])
    timer = threading.Timer(
        0.5, raw_session.execute, ["SELECT pg_advisory_unlock(%s)", [work_key()]]
    )
    timer.start()
    with fenced:
        pid = my_pid()
        assert fenced.lock.snapshot().work_key_pids == {pid}
    timer.join()


def test_an_exclusive_work_key_for_too_long(lock, raw_session) -> None:
    """At the deadline the first connection of a run is refused, and the holder is named."""
    raw_session.execute("SELECT pg_advisory_lock(%s)", [work_key()])
    pid = raw_session.info.backend_pid
    fenced = FencedConnections("default", lock, None, Deadline(0.2))
    holder = rf"backend {pid} \(role \w+, test observer, from 127\.0\.0\.1\)"
    with fenced, pytest.raises(LockWaitTimeout, match=holder):
        my_pid()


def test_the_deadline_and_a_running_migration(lock) -> None:
    """The deadline does not limit a connection that a running migration opens again."""
    fenced = FencedConnections("default", lock, None, Deadline(0))
    with fenced:
        assert fenced._patience() == 0
        my_pid()
        assert fenced._patience() == get_settings().wait_timeout


def test_a_child_of_a_full_server(fenced) -> None:
    """A forked child does not use its parent's session to ask whether the server is full."""

    def child() -> None:
        assert not fenced._is_full()

    assert exit_code(fork(child)) == 0
    assert not fenced._is_full()


def test_a_full_server_that_ends_the_session(fenced, session, django_database) -> None:
    """A leader whose session ends while it waits for a connection has lost the lock."""
    django_database.rows("SELECT pg_terminate_backend(%s, 5000)", session.handshake_pid)
    with pytest.raises(LockLost):
        fenced._is_full()
