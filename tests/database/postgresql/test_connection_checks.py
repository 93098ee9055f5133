"""Connections on which an advisory lock is not safe: standbys, poolers, other servers."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from django_safe_init import (
    LockLost,
    ReadOnlyServer,
    UnsafeConnection,
    get_status,
    initialize,
)
from django_safe_init.backends.postgresql import connection_checks
from django_safe_init.backends.postgresql.connection_checks import (
    check_direct_connection,
    check_lock_excludes,
)
from example_project.embedded import EmbeddedServer


@pytest.fixture
def standby(spare_server) -> Iterator[EmbeddedServer]:
    """Yield the spare server in recovery."""
    signal_file = spare_server.data / "standby.signal"
    spare_server.stop()
    signal_file.touch()
    spare_server.start()
    yield spare_server
    spare_server.stop()
    signal_file.unlink()
    spare_server.start()


def test_a_standby_is_refused(
    django_database, log_in_as, standby, small_shop, settings
) -> None:
    """On a standby leading is refused, the error names DIRECT, and the status can be read."""
    settings.SAFE_INIT = {"IN_TESTS": True, "CONNECT_ATTEMPTS": 1}
    log_in_as(HOST=standby.host, PORT=standby.port, NAME="postgres")
    with pytest.raises(UnsafeConnection) as caught:
        initialize()
    assert "The database 'default' is a read-only standby." in str(caught.value)
    assert '"DIRECT": {"default": {"HOST": ..., "PORT": ...}}' in str(caught.value)
    assert get_status().state == "uninitialized"


def test_a_read_only_role_is_refused(
    django_database, log_in_as, small_shop, settings
) -> None:
    """With default_transaction_read_only leading is refused, and the error names it."""
    settings.SAFE_INIT = {"IN_TESTS": True, "CONNECT_ATTEMPTS": 1}
    log_in_as(OPTIONS={"options": "-c default_transaction_read_only=on"})
    with pytest.raises(ReadOnlyServer, match="default_transaction_read_only") as caught:
        initialize()
    assert caught.value.exit_code == 2


def test_a_deadline_ends_the_wait_for_a_primary(
    django_database, log_in_as, small_shop
) -> None:
    """The timeout limits the wait for a primary."""
    log_in_as(OPTIONS={"options": "-c default_transaction_read_only=on"})
    with pytest.raises(ReadOnlyServer):
        initialize(timeout=0.5)


def test_two_servers(open_session, server16) -> None:
    """Two sessions that reached two servers are a lost leadership, not an unsafe server."""
    first = open_session()
    second = open_session(HOST=server16.host, PORT=server16.port, NAME="postgres")
    with pytest.raises(LockLost, match="have reached two servers"):
        check_lock_excludes(first, second)


def test_the_second_server_is_a_standby(open_session, standby) -> None:
    """A second session that reached a standby is waited for."""
    first = open_session()
    second = open_session(HOST=standby.host, PORT=standby.port, NAME="postgres")
    with pytest.raises(ReadOnlyServer):
        check_lock_excludes(first, second)


class Cockroach:
    """A session to a server without `pg_postmaster_start_time`."""

    def rows(self, query: str) -> list[object]:
        raise psycopg.errors.UndefinedFunction(query)


def test_a_server_that_does_not_tell_its_start() -> None:
    """Sessions of a server without the function count as sessions of one server."""
    assert connection_checks._server_start(Cockroach()) is None


def test_a_postgresql_server(open_session) -> None:
    """On PostgreSQL itself both checks pass and leave no lock behind."""
    first, second = open_session(), open_session()
    check_direct_connection(first, declared=False)
    check_lock_excludes(first, second)
    assert first.rows("SELECT * FROM pg_locks WHERE locktype = 'advisory'") == []


def test_a_no_op_lock(open_session, no_op_lock) -> None:
    """A server that grants every lock, such as CockroachDB, is refused."""
    first, second = open_session(), open_session()
    with pytest.raises(
        UnsafeConnection, match="gives one lock to two sessions"
    ) as caught:
        check_lock_excludes(first, second)
    assert 'SAFE_INIT["DIRECT"]["default"]' in str(caught.value)


def test_one_backend_for_two(session) -> None:
    """Two clients on one backend, as behind a pooler, are refused."""
    with pytest.raises(UnsafeConnection):
        check_lock_excludes(session, session)
