"""The status of a database, with its runs, leader and migrations."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
from django.core.management import call_command
from django.core.management.commands.migrate import Command as DjangoMigrate

from django_safe_init import State, get_status, initialize, is_ready, status
from django_safe_init.backends.postgresql.lock import AdvisoryLock
from django_safe_init.backends.postgresql.reader import PostgresReader
from django_safe_init.backends.postgresql.recorder import PostgresRecorder
from django_safe_init.backends.postgresql.schema import ensure_tables
from django_safe_init.core.build import Build, current_build
from django_safe_init.core.records import (
    RUN_TABLE,
    STEP_TABLE,
    ConnectionEnded,
    TablesLocked,
    leader_name,
)
from django_safe_init.exceptions import (
    ConfigurationError,
    DatabaseUnreachable,
)
from django_safe_init.models import Run
from tests.support import wait_until


@pytest.fixture
def lead(open_session, small_shop):
    """Return a function that opens a run, as a leader of this or another build."""

    def open_run(build: Build | None = None) -> PostgresRecorder:
        session = open_session()
        AdvisoryLock(session).try_acquire()
        ensure_tables(session)
        recorder = PostgresRecorder(session, build or current_build(), None)
        recorder.open_run("test")
        return recorder

    return open_run


OTHER = Build(frozenset(), "another build")


def test_an_empty_database(django_database, small_shop) -> None:
    """An empty database is uninitialized, and reading its status creates no table."""
    found = get_status()
    assert found.state is State.UNINITIALIZED
    assert found.pending == ("shop.0001_initial", "shop.0002_sale")
    assert (found.run, found.led, found.error, found.ready) == (
        None,
        False,
        None,
        False,
    )
    assert (
        django_database.rows("SELECT * FROM pg_tables WHERE schemaname = 'public'")
        == []
    )
    assert not is_ready()


def test_initialized(django_database, small_shop) -> None:
    """After an initialization this build is ready, and the lock is free."""
    initialize()
    found = get_status()
    assert (found.state, found.progress, found.pending) == (State.READY, 100, ())
    assert found.run.outcome == "ready"
    assert not found.led
    assert is_ready()


def test_behind(django_database, small_shop) -> None:
    """A build with one more migration is not ready."""
    initialize()
    small_shop.write("0003_more")
    found = get_status()
    assert found.state is State.UNINITIALIZED
    assert found.pending == ("shop.0003_more",)


def test_ahead(django_database, small_shop) -> None:
    """An older build is ready on a database that is ahead of it."""
    small_shop.write("0003_more")
    initialize()
    small_shop.remove("0003_more")
    assert is_ready()


def test_diverged(django_database, small_shop) -> None:
    """Unknown migrations do not replace a missing one."""
    small_shop.write("0003_theirs")
    initialize()
    small_shop.remove("0003_theirs")
    small_shop.write("0003_ours")
    assert get_status().pending == ("shop.0003_ours",)


def test_migrated_by_hand(django_database, small_shop) -> None:
    """A database that plain Django migrated is ready."""
    call_command(DjangoMigrate(), verbosity=0)
    assert is_ready()
    assert get_status().run is None


def test_a_leader_at_work(lead) -> None:
    """While a leader works, the status has its state and progress."""
    leader = lead()
    leader.total = 4
    leader.update(State.MIGRATING, "shop.0001_initial")
    found = get_status()
    assert (found.state, found.led) == (State.MIGRATING, True)
    assert found.message == "migrating 1/4 shop.0001_initial"
    assert found.run.age_seconds >= found.run.silence_seconds >= 0


def test_a_dead_leader(lead) -> None:
    """An open run without a lock holder is an error: its leader died."""
    leader = lead()
    leader.update(State.MIGRATING, "shop.0001_initial")
    leader.session.close()
    found = wait_until(lambda: not (now := get_status()).led and now)
    assert found.state is State.ERROR
    assert found.error == (
        f"the leader {found.run.leader} of run {leader.run_id} died in shop.0001_initial"
    )


def test_a_starting_leader(session, small_shop) -> None:
    """A leader without a run is starting."""
    AdvisoryLock(session).try_acquire()
    found = get_status()
    assert (found.state, found.message) == (
        State.CHECKING_SCHEMA,
        f"a leader is starting; the leader lock is held by the leader {leader_name()}",
    )


def test_a_failed_run(lead) -> None:
    """A failed run is an error with its reason."""
    leader = lead()
    leader.finish_run("failed", State.ERROR, "ValueError: it broke")
    found = get_status()
    assert (found.state, found.error) == (State.ERROR, "ValueError: it broke")


def test_an_old_build_while_a_newer_one_migrates(django_database, lead) -> None:
    """A ready build stays ready while a newer one migrates, and after that one failed."""
    initialize()
    newer = lead(OTHER)
    assert is_ready()
    newer.finish_run("failed", State.ERROR, "it broke")
    assert is_ready()


def test_a_failure_before_another_build_succeeded(django_database, lead) -> None:
    """After this build failed, a later successful run of another build makes it ready."""
    initialize()
    lead().finish_run("failed", State.ERROR, "it broke")
    assert not is_ready()
    lead(OTHER).finish_run("ready", State.READY)
    assert is_ready()


def test_other_projects(lead, settings) -> None:
    """The status ignores runs and locks of another LOCK_KEY."""
    lead()
    settings.SAFE_INIT = {**settings.SAFE_INIT, "LOCK_KEY": "other"}
    found = get_status()
    assert (found.run, found.led) == (None, False)


# Missing privileges


@pytest.mark.parametrize("table", [RUN_TABLE, "django_migrations"])
def test_a_table_that_may_not_be_read(
    django_database, log_in_as, new_role, small_shop, caplog, monkeypatch, table
) -> None:
    """A missing SELECT is logged once, with the GRANT that helps."""
    monkeypatch.setattr(
        "django_safe_init.backends.postgresql.reader._named_grants", set()
    )
    initialize()
    role = new_role("web server")
    for other in (RUN_TABLE, "django_migrations"):
        if other != table:
            django_database.rows(f'GRANT SELECT ON {other} TO "{role}"')
    log_in_as(USER=role)
    with caplog.at_level(logging.WARNING, "django_safe_init"):
        for _ in range(2):
            ready = is_ready()
    grant = f'GRANT SELECT ON public.{table} TO "web server";'
    [message] = caplog.messages
    assert message.endswith(f"As its owner: {grant}")
    assert ready is (table == RUN_TABLE)
    django_database.rows(grant)
    assert is_ready()


def test_reading_without_privileges(
    django_database, log_in_as, new_role, open_session, small_shop, monkeypatch
) -> None:
    """A reader without privileges reports all migrations as missing, and no history."""
    monkeypatch.setattr(
        "django_safe_init.backends.postgresql.reader._named_grants", set()
    )
    initialize()
    log_in_as(USER=new_role("web"))
    reader = PostgresReader(open_session(), current_build(), None)
    assert reader.read().missing == ("shop.0001_initial", "shop.0002_sale")
    assert reader.history(5) == []


def test_one_round_trip(session, small_shop, monkeypatch) -> None:
    """`finished_run` executes one statement, once the tables are found."""
    run = initialize().run
    session.locate_tables()
    sent = []
    real = session.rows
    monkeypatch.setattr(
        session, "rows", lambda *args: (sent.append(args), real(*args))[1]
    )
    assert run == PostgresReader(session, current_build(), None).finished_run()
    assert len(sent) == 1


@pytest.mark.parametrize("read", [PostgresReader.read, PostgresReader.peek])
def test_dropped_tables(lead, open_session, django_database, read) -> None:
    """A reader that has found our tables continues after they were dropped."""
    leader = lead()
    reader = PostgresReader(open_session(), current_build(), None)
    assert read(reader).latest.id == leader.run_id
    django_database.rows(f"DROP TABLE {STEP_TABLE}, {RUN_TABLE}")
    found = read(reader)
    assert found.latest is None
    assert found.leader_pid == leader.session.handshake_pid


def test_a_poll_leaves_no_error_in_the_log(session, small_shop, server) -> None:
    """Reading an empty database logs no error in PostgreSQL's log."""
    before = server.log.read_text().count("does not exist")
    reader = PostgresReader(session, current_build(), None)
    reader.read()
    reader.peek()
    assert server.log.read_text().count("does not exist") == before


@pytest.mark.parametrize(
    "column",
    ["error", "done", "total", "progress", "message", "command", "backend_pid"],
)
def test_rows_of_an_older_version(
    django_database, small_shop, lead, open_session, column
) -> None:
    """A row without a column of a later version is still read."""
    leader = lead()
    django_database.rows(f"ALTER TABLE {RUN_TABLE} DROP COLUMN {column}")
    found = PostgresReader(open_session(), current_build(), None).read()
    assert found.latest.id == leader.run_id
    assert found.latest.open


def test_rows_of_a_newer_version(django_database, small_shop) -> None:
    """A reader ignores a column of a later version."""
    initialize()
    django_database.rows(
        f"ALTER TABLE {RUN_TABLE} ADD COLUMN phase text DEFAULT 'schema'"
    )
    assert is_ready()
    assert {field.column for field in Run._meta.fields} < set(
        django_database.newest_run()
    )


# While a migration locks our tables


@pytest.mark.parametrize("led", [True, False])
def test_locked_tables(session, small_shop, raw_session, led) -> None:
    """While our tables are locked, the status says so, and whether a leader exists."""
    initialize()
    if led:
        assert AdvisoryLock(session).try_acquire()
    raw_session.execute(f"BEGIN; LOCK TABLE {RUN_TABLE}")
    found = get_status()
    assert found.state is State.MIGRATING
    if led:
        assert found.message == "the status tables are locked, probably by a migration"
    else:
        pid = raw_session.info.backend_pid
        assert f"{RUN_TABLE} stayed locked by backend {pid} (role" in found.message
        assert f"SELECT pg_terminate_backend({pid});" in found.message
    assert found.led is led
    assert not found.ready


def test_a_connection_that_ends(session, small_shop, django_database) -> None:
    """A connection that ends while reading makes the database unreachable."""
    reader = PostgresReader(session, current_build(), None)
    django_database.rows("SELECT pg_terminate_backend(%s, 5000)", session.handshake_pid)
    with pytest.raises(
        DatabaseUnreachable, match="The connection to 'default' ended: "
    ):
        status.read_status("default", reader)


def test_a_state_of_a_newer_version(lead, django_database) -> None:
    """An unknown state of a newer version counts as migrating, or as an error once ended."""
    leader = lead()
    django_database.rows(f"UPDATE {RUN_TABLE} SET state = 'polishing'")
    assert get_status().state is State.MIGRATING
    leader.finish_run("failed", State.ERROR, "it broke")
    django_database.rows(f"UPDATE {RUN_TABLE} SET state = 'polished'")
    assert get_status().state is State.ERROR


# History


def test_history(django_database, session, small_shop) -> None:
    """The history has the newest runs first, and no more than requested."""
    initialize()
    small_shop.write("0003_more")
    initialize()
    reader = PostgresReader(session, current_build(), None)
    ids = [run["id"] for run in django_database.runs()]
    assert [run.id for run in reader.history(5)] == ids[::-1]
    assert [run.id for run in reader.history(1)] == ids[-1:]
    assert reader.history(0) == []
    [newest] = reader.history(1)
    assert newest.duration_seconds >= 0
    assert newest.finished_at


# Errors


def test_unreachable(django_database, log_in_as, small_shop) -> None:
    """A database that does not answer is an error at once: reading a status does not wait."""
    log_in_as(PORT="1")
    with pytest.raises(DatabaseUnreachable):
        get_status()


def test_unknown_alias() -> None:
    """An unknown alias is a configuration error."""
    with pytest.raises(ConfigurationError, match="There is no database 'nowhere'"):
        get_status("nowhere")


def test_through_assume_role(django_database, log_in_as, new_role, small_shop) -> None:
    """The assumed role's privileges count."""
    role = new_role("owner")
    django_database.rows(f"GRANT CREATE ON SCHEMA public TO {role}")
    log_in_as(OPTIONS={"assume_role": role})
    initialize()
    assert is_ready()
    owner = django_database.value(
        "SELECT tableowner FROM pg_tables WHERE tablename = %s", RUN_TABLE
    )
    assert owner == role


def test_a_connection_that_is_lost_while_the_tables_are_locked() -> None:
    """A connection that is lost while the tables are locked makes the database unreachable."""

    def raise_locked() -> None:
        raise TablesLocked

    def raise_ended() -> None:
        raise ConnectionEnded("gone")

    reader = SimpleNamespace(read=raise_locked, leader_pid=raise_ended)
    with pytest.raises(DatabaseUnreachable, match="gone"):
        status.read_status("default", reader)


def test_times_are_utc(django_database, small_shop, log_in_as) -> None:
    """Times are UTC, whatever the time zone of the database."""
    initialize()
    name = django_database.name
    django_database.rows(f"ALTER DATABASE \"{name}\" SET timezone TO 'Asia/Tokyo'")
    run = get_status().run
    assert run is not None
    assert run.started_at.endswith("+00:00")
    assert run.finished_at is not None
    assert run.finished_at.endswith("+00:00")


@pytest.mark.parametrize(
    ("error", "meaning"),
    [(TablesLocked, None), (ConnectionEnded, DatabaseUnreachable)],
)
def test_history_that_cannot_be_read(error, meaning) -> None:
    """Locked tables have no history; a lost connection is an error."""

    def history(count: int) -> list:
        raise error("no")

    reader = SimpleNamespace(history=history)
    if meaning is None:
        assert status.read_history("default", reader, 3) == []
        return
    with pytest.raises(meaning, match="The connection to 'default' ended: no"):
        status.read_history("default", reader, 3)
