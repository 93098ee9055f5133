"""Connections on which an advisory lock is not safe: standbys, poolers, other servers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from django_safe_init import UnsafeConnection, get_status, initialize
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


def test_a_standby_is_refused(django_database, log_in_as, standby, small_shop) -> None:
    """On a standby leading is refused, the error names DIRECT, and the status can be read."""
    log_in_as(HOST=standby.host, PORT=standby.port, NAME="postgres")
    with pytest.raises(UnsafeConnection) as caught:
        initialize()
    assert "The database 'default' is a read-only standby." in str(caught.value)
    assert '"DIRECT": {"default": {"HOST": ..., "PORT": ...}}' in str(caught.value)
    assert get_status().state == "uninitialized"


FAKES = """
    CREATE FUNCTION app.pg_try_advisory_lock(bigint) RETURNS boolean
    LANGUAGE sql AS 'SELECT true'
"""


def test_a_postgresql_server(open_session) -> None:
    """On PostgreSQL itself both checks pass and leave no lock behind."""
    first, second = open_session(), open_session()
    check_direct_connection(first, declared=False)
    check_lock_excludes(first, second)
    assert first.rows("SELECT * FROM pg_locks WHERE locktype = 'advisory'") == []


def test_a_no_op_lock(django_database, log_in_as, open_session) -> None:
    """A server that grants every lock, such as CockroachDB, is refused."""
    django_database.rows("CREATE SCHEMA app")
    django_database.rows(FAKES)
    log_in_as(OPTIONS={"options": "-c search_path=app,pg_catalog"})
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
