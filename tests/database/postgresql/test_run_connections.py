"""The connections of a run: direct, marked with the work key, and led."""

from __future__ import annotations

import threading

import psycopg
import pytest
from django.db import connection, connections

from django_safe_init.backends.postgresql.lock import AdvisoryLock
from django_safe_init.backends.postgresql.lock_keys import work_key
from django_safe_init.backends.postgresql.run_connections import FencedConnections
from django_safe_init.exceptions import LockLost, UnsafeConnection
from tests.database.postgresql.test_session import exit_code, fork
from tests.support import wait_until


@pytest.fixture
def lock(session) -> AdvisoryLock:
    lock = AdvisoryLock(session)
    assert lock.try_acquire()
    return lock


@pytest.fixture
def armed(lock) -> FencedConnections:
    return FencedConnections("default", lock, None)


def my_pid(alias: str = "default") -> int:
    """The backend of this thread's Django connection."""
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return cursor.fetchone()[0]


def in_thread(function):
    """What the function returns in a thread of its own."""
    found = []

    def run() -> None:
        try:
            found.append(function())
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(20)
    return found[0]


def test_a_connection_of_the_run_is_marked(armed, django_database) -> None:
    """Django's connection holds the work key, and is protected against a dead client."""
    with armed:
        assert django_database.holders(work_key()) == []
        pid = my_pid()
        assert django_database.holders(work_key()) == [pid]
        with connection.cursor() as cursor:
            cursor.execute("SHOW client_connection_check_interval")
            assert cursor.fetchone() == ("100ms",)
    wait_until(lambda: not django_database.holders(work_key()))


def test_a_reconnection_is_marked_too(armed, django_database) -> None:
    """connection.close() in a migration leads to a connection that is marked as well."""
    with armed:
        first = my_pid()
        connection.close()
        second = my_pid()
        assert first != second
        wait_until(lambda: django_database.holders(work_key()) == [second])


def test_threads_of_the_run(armed, django_database) -> None:
    """A thread that the run starts works on marked connections."""
    with armed:
        assert in_thread(lambda: my_pid() in django_database.holders(work_key()))


def test_other_threads(armed, lock, django_database) -> None:
    """What a thread does that was there before is none of the run's business."""
    go, done, found = threading.Event(), threading.Event(), []

    def work() -> None:
        go.wait(20)
        my_pid()
        found.append(connection.settings_dict["OPTIONS"])
        found.append(django_database.holders(work_key()))
        connection.close()
        done.set()

    stranger = threading.Thread(target=work)
    stranger.start()
    with FencedConnections("default", lock, None):
        go.set()
        assert done.wait(20)
    stranger.join()
    assert found == [{}, []]


def test_other_aliases(armed, django_database, make_database, monkeypatch) -> None:
    """A connection to another alias is left alone."""
    other = make_database()
    configured = connections.configure_settings(
        {"default": {}, "other": other.settings()}
    )
    monkeypatch.setitem(connections.settings, "other", configured["other"])
    with armed:
        my_pid("other")
        assert other.holders(work_key()) == []
        assert django_database.holders(work_key()) == []
    connections["other"].close()
    del connections["other"]


def test_two_aliases_at_once(lock, monkeypatch) -> None:
    """Runs of two aliases in one process do not disturb each other's end."""
    configured = connections.configure_settings(
        {"default": {}, "other": connections.settings["default"]}
    )
    monkeypatch.setitem(connections.settings, "other", configured["other"])
    with FencedConnections("default", lock, None):
        with FencedConnections("other", lock, None):
            pass
        assert in_thread(lambda: connections["default"].settings_dict["OPTIONS"])
    assert "create_connection" not in vars(connections)


def test_after_a_loss_nothing_can_be_done(armed, lock, django_database) -> None:
    """A connection opened after leadership was lost is closed before it can do anything."""
    with armed:
        my_pid()
        connection.close()
        lock.session.rows("SELECT pg_advisory_unlock_all()")
        with pytest.raises(LockLost):
            my_pid()
        assert connection.connection is None
        with pytest.raises(LockLost):
            my_pid()
    wait_until(lambda: not django_database.holders(work_key()))


def test_a_pool_is_not_used(armed, log_in_as, django_database) -> None:
    """A pool would hand out our marked connection to others: the run's wrappers have none."""
    log_in_as(OPTIONS={"pool": {"min_size": 1, "max_size": 2}})
    with armed as wrapper:
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
            assert unwind.wait(20)

    first = in_background(lead)
    assert entered.wait(20)
    lock.session.close()
    following = AdvisoryLock(open_session())
    wait_until(following.try_acquire)
    with FencedConnections("default", following, None):
        # A thread that may be of either works for neither rather than for the wrong one.
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
    """What DIRECT says holds for the wrappers of the run's threads, and for nobody after."""
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


def test_the_previous_wrapper_comes_back(armed) -> None:
    """The caller's connection is the one it was, open or not."""
    before = connections["default"]
    pid = my_pid()
    with armed as wrapper:
        assert connections["default"] is wrapper
        assert my_pid() != pid
    assert connections["default"] is before
    assert my_pid() == pid


def test_no_previous_wrapper(armed) -> None:
    """A thread that had no wrapper has none afterwards."""
    connections["default"].close()
    del connections["default"]
    with armed:
        my_pid()
    assert not hasattr(connections._connections, "default")


def test_without_autocommit(armed, log_in_as, django_database) -> None:
    """With AUTOCOMMIT = False the connection is marked, and not left in a transaction."""
    log_in_as(AUTOCOMMIT=False)
    try:
        with armed:
            connection.ensure_connection()
            raw = connection.connection
            assert raw.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
            assert django_database.holders(work_key()) == [raw.info.backend_pid]
    finally:
        log_in_as(AUTOCOMMIT=True)


def test_a_pooler_is_refused(armed, monkeypatch) -> None:
    """A connection whose handshake named another backend is refused and closed."""
    with armed:
        _lie_about_the_backend(monkeypatch)
        with pytest.raises(UnsafeConnection, match=r'SAFE_INIT\["DIRECT"\]'):
            connection.ensure_connection()
        assert connection.connection is None


def test_a_declared_pooler(lock, monkeypatch, django_database) -> None:
    """An entry in DIRECT declares that a session is the client's own."""
    with FencedConnections("default", lock, {}):
        _lie_about_the_backend(monkeypatch)
        connection.ensure_connection()
        assert len(django_database.holders(work_key())) == 1


def _lie_about_the_backend(monkeypatch) -> None:
    """Only a pooler gives a false backend pid; there is none here."""
    monkeypatch.setattr(psycopg.ConnectionInfo, "backend_pid", property(lambda _: 1))


# A migration that forks


def test_a_forked_child_works_while_its_parent_leads(armed, django_database) -> None:
    """A forked child's own connection is marked too, and sees that its parent leads."""

    def work() -> None:
        connection.connection = None  # the parent's, which a child must not use
        assert marked()

    def marked() -> bool:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
                " AND pid = pg_backend_pid() AND mode = 'ShareLock'"
            )
            return cursor.fetchone() == (1,)

    with armed:
        assert exit_code(fork(work)) == 0


def test_a_forked_child_stops_when_its_parent_lost(armed, lock) -> None:
    """A forked child opens no connection once its parent no longer leads."""

    def work() -> None:
        with pytest.raises(LockLost, match="no longer leads"):
            my_pid()

    with armed:
        lock.session.rows("SELECT pg_advisory_unlock_all()")
        assert exit_code(fork(work)) == 0


def test_nobody_waits_for_the_work_key(armed, raw_session) -> None:
    """Where a stranger holds the work key exclusively, a connection is refused at once."""
    raw_session.execute("SELECT pg_advisory_lock(%s)", [work_key()])
    with (
        armed,
        pytest.raises(
            UnsafeConnection, match=rf"\(backend {raw_session.info.backend_pid}\) holds"
        ),
    ):
        my_pid()
