"""The readiness of a process that serves, with real databases."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest
from django.core.management import call_command
from django.core.management.commands.migrate import Command as DjangoMigrate
from django.db import connections
from django.http import HttpResponse
from django.test import RequestFactory

from django_safe_init import initialize
from django_safe_init.backends.base.reader import BaseReader
from django_safe_init.backends.postgresql import reader
from django_safe_init.backends.postgresql.lock import AdvisoryLock
from django_safe_init.backends.postgresql.recorder import PostgresRecorder
from django_safe_init.backends.postgresql.schema import ensure_tables
from django_safe_init.backends.postgresql.session import Session
from django_safe_init.conf import get_settings
from django_safe_init.core.deadline import Deadline
from django_safe_init.core.records import (
    RUN_TABLE,
    ConnectionEnded,
    TablesLocked,
    TablesUnreadable,
)
from django_safe_init.core.states import State
from django_safe_init.exceptions import ConfigurationError
from django_safe_init.middleware import InitializationMiddleware
from django_safe_init.serving.background.readiness import readiness
from django_safe_init.status import Status, StatusDetail, open_reader, with_estimate
from example_project.embedded import free_port
from tests.support import PATIENCE, wait_until
from tests.unit.snapshots import run_row

factory = RequestFactory()
PATHS = ("/health/live", "/health/db", "/api/db/status")


@pytest.fixture
def serving(django_database, small_shop) -> Iterator[Callable[[str], HttpResponse]]:
    """Return a function that requests a path of this process; the first request loads the build."""
    yield from _serve()


def _serve() -> Iterator[Callable[[str], HttpResponse]]:
    made: list[InitializationMiddleware] = []

    def ask(path: str) -> HttpResponse:
        if not made:
            made.append(
                InitializationMiddleware(lambda request: HttpResponse("served"))
            )
        return made[0](factory.get(path))

    yield ask
    readiness.reset()


@pytest.fixture
def serving_lite(lite, small_shop) -> Iterator[Callable[[str], HttpResponse]]:
    """Return the same function with a SQLite file."""
    yield from _serve()


def state_of(alias: str = "default") -> State | None:
    status = readiness.status(alias)
    return status and status.state


def health(serving: Callable[[str], HttpResponse]) -> int:
    """Return the HTTP status of readiness after the first poll."""
    serving("/health/live")
    readiness.wait(PATIENCE)
    return serving("/health/db").status_code


def wait_for(state: State, alias: str = "default") -> None:
    wait_until(
        lambda: state_of(alias) is state, message=lambda: str(readiness.status(alias))
    )


# The database and this build


def test_equal(serving) -> None:
    """After an initialization the first request of a process is served."""
    initialize()
    assert serving("/").content == b"served"
    assert health(serving) == 200


def test_behind(serving, small_shop) -> None:
    """A build with one more migration blocks requests until that migration is applied."""
    initialize()
    small_shop.write("0003_more")
    assert serving("/").status_code == 503
    assert readiness.status("default").pending == ("shop.0003_more",)
    initialize()
    wait_until(readiness.ready)
    assert serving("/").content == b"served"


def test_ahead(serving, small_shop) -> None:
    """A database that is ahead of a build is ready for it."""
    small_shop.write("0003_more")
    initialize()
    small_shop.remove("0003_more")
    assert health(serving) == 200


def test_diverged(serving, small_shop, settings) -> None:
    """A database that followed another branch is not ready; the status names its migration."""
    small_shop.write("0003_theirs")
    initialize()
    small_shop.remove("0003_theirs")
    small_shop.write("0003_ours")
    assert health(serving) == 503
    status = readiness.status("default")
    assert status.pending == ("shop.0003_ours",)
    assert status.unknown == ("shop.0003_theirs",)
    assert status.message == (
        "not initialized for this build, which does not know shop.0003_theirs"
    )
    assert b"theirs" not in serving("/api/db/status").content


def test_leftovers_of_an_app_that_is_gone(serving, django_database, small_shop) -> None:
    """Migrations of an app that this build does not have are not reported as unknown."""
    initialize()
    django_database.rows(
        "INSERT INTO django_migrations (app, name, applied) VALUES ('gone', '0001', now())"
    )
    small_shop.write("0003_more")
    health(serving)
    assert readiness.status("default").unknown == ()


def test_sqlite(serving_lite, small_shop) -> None:
    """A SQLite file that is empty, on another branch or equal has the same statuses."""
    assert serving_lite("/").status_code == 503
    assert state_of() is State.UNINITIALIZED
    small_shop.write("0003_theirs")
    initialize()
    wait_until(readiness.ready)
    readiness.reset()
    small_shop.remove("0003_theirs")
    small_shop.write("0003_ours")
    assert serving_lite("/").status_code == 503
    assert readiness.status("default").unknown == ("shop.0003_theirs",)
    initialize()
    wait_until(readiness.ready)
    assert serving_lite("/").content == b"served"


def test_sqlite_without_our_tables(serving_lite, small_shop) -> None:
    """A SQLite file that plain Django migrated on another branch reports the unknown migration."""
    small_shop.write("0003_theirs")
    call_command(DjangoMigrate(), verbosity=0)
    small_shop.remove("0003_theirs")
    small_shop.write("0003_ours")
    assert serving_lite("/").status_code == 503
    assert readiness.status("default").unknown == ("shop.0003_theirs",)


def test_migrated_by_plain_django(serving) -> None:
    """A database that plain Django migrated is ready."""
    call_command(DjangoMigrate(), verbosity=0)
    assert health(serving) == 200


def test_an_empty_database(serving) -> None:
    """On an empty database a process responds, blocks requests and is uninitialized."""
    assert serving("/").status_code == 503
    assert state_of() is State.UNINITIALIZED
    assert serving("/health/live").status_code == 200


def test_ready_is_for_good(serving, django_database) -> None:
    """A ready process polls no more, whatever happens to the database."""
    initialize()
    assert serving("/").content == b"served"
    django_database.rows(f"DROP TABLE {RUN_TABLE}, django_migrations CASCADE")
    assert not any("safe_init" in each.name for each in threading.enumerate())
    assert health(serving) == 200


@pytest.mark.parametrize("table", [RUN_TABLE, "django_migrations"])
def test_rights(
    serving, django_database, log_in_as, new_role, monkeypatch, table
) -> None:
    """A role that may not read the run table is ready; without django_migrations never."""
    monkeypatch.setattr(reader, "_named_grants", set())
    initialize()
    role = new_role("web")
    for other in (RUN_TABLE, "django_migrations"):
        if other != table:
            django_database.rows(f"GRANT SELECT ON {other} TO {role}")
    log_in_as(USER=role)
    expected = 200 if table == RUN_TABLE else 503
    assert health(serving) == expected


# A database that does not answer


def assert_alive_but_not_ready(serving: Callable[[str], HttpResponse]) -> None:
    assert [serving(path).status_code for path in PATHS] == [200, 503, 200]


def test_a_database_server_that_is_down(serving, log_in_as) -> None:
    """Probes are answered while PostgreSQL is down; later its status has the reason."""
    initialize()
    log_in_as(PORT=str(free_port()))
    assert_alive_but_not_ready(serving)
    wait_for(State.CONNECTING)
    assert "Check HOST and PORT" in wait_until(
        lambda: readiness.status("default").error
    )
    assert_alive_but_not_ready(serving)
    assert serving("/").status_code == 503


def test_a_database_server_that_never_answers(serving, log_in_as, black_hole) -> None:
    """Probes are answered before a connection attempt runs into its timeout, and afterwards."""
    log_in_as(PORT=str(black_hole), HOST="127.0.0.1")
    assert_alive_but_not_ready(serving)
    assert readiness.status("default") is None
    assert "timeout" in wait_until(lambda: readiness.status("default")).error
    assert_alive_but_not_ready(serving)


def test_recovery(serving, log_in_as, django_database) -> None:
    """A process that could not reach its database serves once it can."""
    initialize()
    log_in_as(PORT=str(free_port()))
    assert serving("/").status_code == 503
    log_in_as(**django_database.settings())
    wait_until(readiness.ready)
    assert serving("/").content == b"served"


@pytest.fixture
def lead(small_shop, open_session) -> Callable[[], PostgresRecorder]:
    """Return a function that opens a run of this build, as a leader that migrates."""

    def open_run() -> PostgresRecorder:
        session = open_session()
        assert AdvisoryLock(session).try_acquire()
        ensure_tables(session)
        leader = PostgresRecorder(session, small_shop.build(), None)
        leader.open_run("test")
        leader.total = 4
        leader.update(State.MIGRATING, "shop.0001_initial")
        return leader

    return open_run


def test_while_a_migration_locks_our_tables(serving, lead, raw_session) -> None:
    """The progress is still known while a migration locks our tables."""
    lead()
    health(serving)
    wait_for(State.MIGRATING)
    before = readiness.status("default")
    raw_session.execute(f"BEGIN; LOCK TABLE {RUN_TABLE}")
    wait_until(
        lambda: raw_session.execute(
            "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = %s::regclass",
            [RUN_TABLE],
        ).fetchone()
    )
    seen = readiness.status("default")
    wait_until(lambda: readiness.status("default") is not seen)
    assert readiness.status("default").run.id == before.run.id
    raw_session.rollback()


# The remaining time


@pytest.fixture(params=["django_database", "lite"])
def any_reader(request, small_shop) -> Iterator[BaseReader]:
    """A reader of a PostgreSQL and a SQLite database that were initialized with the shop."""
    request.getfixturevalue(request.param)
    initialize()
    with closing(open_reader("default", get_settings(), Deadline(5))) as opened:
        yield opened


NAMES = ("shop.0001_initial", "shop.0002_sale")


def test_seconds_left(any_reader) -> None:
    """The remaining steps take as long as in an earlier run; without one the time is unknown."""
    [first] = any_reader.history(1)
    again = first._replace(id=first.id + 1)
    one, both = (any_reader.seconds_left(again, names) for names in (NAMES[:1], NAMES))
    assert 0 < one < both < 30
    assert any_reader.seconds_left(again, (*NAMES, "shop.0003_more")) is None
    assert any_reader.seconds_left(first, NAMES) is None


def test_an_estimate(serving, django_database, lead, small_shop) -> None:
    """An open run has an estimate if all its steps were timed before."""
    initialize()
    call_command("migrate", "shop", "zero", verbosity=0)
    leader = lead()
    leader.start_step(NAMES[0], backwards=False, atomic=True).verify()
    health(serving)
    wait_for(State.MIGRATING)
    assert 0 <= readiness.detail("default").remaining_seconds < 30
    small_shop.write("0003_more")
    readiness.reset()
    health(serving)
    wait_for(State.MIGRATING)
    assert readiness.detail("default").remaining_seconds is None


@pytest.mark.parametrize("error", [TablesLocked, TablesUnreadable, ConnectionEnded])
def test_no_estimate(error) -> None:
    """If the steps cannot be read, the detail has no estimate and stays as it is."""

    class Reader:
        def seconds_left(self, *arguments: object) -> None:
            raise error

    status = Status(
        "default", State.MIGRATING, 1, "", run=run_row(), led=True, pending=NAMES
    )
    detail = StatusDetail(status)
    assert with_estimate(detail, Reader()) is detail


# Several databases


def test_a_database_that_hangs(
    serving, django_database, settings, monkeypatch, black_hole
) -> None:
    """A database that hangs does not delay the status of another one."""
    hanging = {**connections.settings["default"], "PORT": str(black_hole)}
    monkeypatch.setitem(
        connections.settings, "hanging", {**hanging, "HOST": "127.0.0.1"}
    )
    settings.SAFE_INIT = {"IN_TESTS": True, "DATABASES": ["hanging", "default"]}
    initialize()
    serving("/health/live")
    wait_until(lambda: readiness.ready("default"))
    assert readiness.status("hanging") is None
    assert serving("/health/db?database=default").status_code == 200
    assert health(serving) == 503
    assert not readiness.ready()


# No request opens a connection


@pytest.fixture
def connecting_threads(monkeypatch) -> list[str]:
    """Record the thread name of each opened connection."""
    names: list[str] = []
    connect = psycopg.connect

    def noted(*args: Any, **kwargs: Any) -> Any:
        names.append(threading.current_thread().name)
        return connect(*args, **kwargs)

    monkeypatch.setattr(psycopg, "connect", noted)
    return names


def test_no_request_opens_a_connection(
    serving, django_database, connecting_threads
) -> None:
    """Only the poller connects, at most once a second, and no more once ready."""
    started = time.monotonic()
    while len(connecting_threads) < 3:
        for path in (*PATHS, "/"):
            serving(path)
    assert time.monotonic() - started >= 2
    assert set(connecting_threads) == {"safe_init default"}
    initialize()
    wait_until(readiness.ready)
    before = django_database.sessions()
    del connecting_threads[:]
    for path in (*PATHS, "/") * 20:
        assert serving(path).status_code == 200
    assert (connecting_threads, django_database.sessions()) == ([], before)


def test_no_connection_between_polls(serving, django_database, monkeypatch) -> None:
    """Between two polls no connection is open."""
    closed = []
    close = Session.close
    monkeypatch.setattr(
        Session, "close", lambda self: (close(self), closed.append(self))
    )
    health(serving)
    wait_until(lambda: closed)
    wait_until(lambda: not django_database.backends())
    assert not readiness.ready()


def test_a_build_whose_migrations_cannot_be_found(serving, settings) -> None:
    """A process whose build cannot be computed does not start to serve."""
    settings.MIGRATION_MODULES = {"shop": "nowhere.migrations"}
    with pytest.raises(ConfigurationError, match="nowhere"):
        serving("/")
