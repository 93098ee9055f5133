"""The details of a status, also while a migration locks our tables."""

from __future__ import annotations

import pytest

from django_safe_init import status as module
from django_safe_init.backends.postgresql.lock import AdvisoryLock
from django_safe_init.backends.postgresql.reader import PostgresReader
from django_safe_init.backends.postgresql.recorder import PostgresRecorder
from django_safe_init.backends.postgresql.schema import ensure_tables
from django_safe_init.core.build import Build
from django_safe_init.core.records import RUN_TABLE, STEP_TABLE
from django_safe_init.core.states import State
from django_safe_init.exceptions import DatabaseUnreachable
from django_safe_init.status import StepRow, poll_interval, read_detail, read_status
from tests.support import wait_until

BUILD = Build(frozenset({"shop.0001", "shop.0002"}), "x")
LOCKED = "canceling statement due to lock timeout"


def lead(session) -> PostgresRecorder:
    """Lead a run of two steps, and start the second."""
    assert AdvisoryLock(session).try_acquire()
    ensure_tables(session)
    recorder = PostgresRecorder(session, BUILD, None)
    recorder.open_run("test")
    recorder.total = 2
    recorder.update(State.MIGRATING, "reading migrations")
    recorder.start_step("shop.0001", backwards=False, atomic=True)
    recorder.finish_step("done")
    recorder.start_step("shop.0002", backwards=True, atomic=True).verify()
    return recorder


@pytest.fixture
def leading(session) -> PostgresRecorder:
    """A leader in the second of two steps."""
    return lead(session)


@pytest.fixture
def reader(open_session) -> PostgresReader:
    return PostgresReader(open_session("safe_init status"), BUILD, None)


def seen(step: StepRow) -> tuple[object, ...]:
    assert step.seconds >= 0
    return step[:-1]


FIRST = (1, "migration", "shop.0001", False, "done")
SECOND = (2, "migration", "shop.0002", True, None)


def test_a_leader_at_work(leading, reader, open_session) -> None:
    """The detail has the steps in their order, the leader's role, and the connected followers."""
    for _ in range(2):
        open_session("safe_init waiting")
    found = read_detail("default", reader, None)
    assert found.running
    assert [seen(step) for step in found.steps] == [FIRST, SECOND]
    assert (found.role, found.followers, found.note) == ("postgres", 2, "")
    assert found.activity.blockers == ()
    assert found.elapsed >= 0


def test_a_blocked_leader(leading, reader, raw_session, django_database, in_background):
    """The detail has the sessions that block the leader's statement."""
    django_database.rows("CREATE TABLE shop ()")
    raw_session.execute("BEGIN; LOCK TABLE shop")
    blocked = in_background(
        lambda: leading.session.rows("SET lock_timeout = 0; TABLE public.shop")
    )
    wait_until(lambda: django_database.backends("wait_event_type = 'Lock'"))
    activity = read_detail("default", reader, None).activity
    assert activity.query.endswith("TABLE public.shop")
    assert [blocker.pid for blocker in activity.blockers] == [
        raw_session.info.backend_pid
    ]
    raw_session.execute("COMMIT")
    blocked.result()


def count_queries(reader, monkeypatch) -> int:
    """Return the number of queries of the next read; the poll interval allows for them."""
    made = []
    read = reader.session.read

    def counted(*args):
        made.append(args)
        return read(*args)

    with monkeypatch.context() as patched:
        patched.setattr(reader.session, "read", counted)
        found = read_detail("default", reader, None)
    assert len(made) <= 4 * poll_interval(found), "more than four a second"
    return len(made)


def test_four_queries_a_second(
    reader, session, raw_session, django_database, in_background, monkeypatch
) -> None:
    """However many queries a read needs, it makes four a second at most."""
    without_a_run = count_queries(reader, monkeypatch)
    recorder = lead(session)
    read_detail(
        "default", reader, None
    )  # after this the reader knows that the tables exist
    led = count_queries(reader, monkeypatch)
    django_database.rows("CREATE TABLE shop ()")
    raw_session.execute("BEGIN; LOCK TABLE shop")
    blocked = in_background(
        lambda: session.rows("SET lock_timeout = 0; TABLE public.shop")
    )
    wait_until(lambda: django_database.backends("wait_event_type = 'Lock'"))
    assert without_a_run < led < count_queries(reader, monkeypatch)
    raw_session.execute("COMMIT")
    blocked.result()
    recorder.finish_run("failed", State.ERROR, "it broke")
    assert count_queries(reader, monkeypatch) < led


def test_a_leader_that_has_ended(leading, reader) -> None:
    """Without a leader no run is running, and no activity is read."""
    leading.finish_run("failed", State.ERROR, "it broke")
    found = read_detail("default", reader, None)
    assert (found.running, found.activity) == (False, None)
    assert len(found.steps) == 2


def test_no_run_yet(reader) -> None:
    """An empty database has a status without details."""
    found = read_detail("default", reader, None)
    assert (found.status.state, found.steps) == (State.UNINITIALIZED, ())
    assert not found.running


def test_many_steps(leading, reader, monkeypatch) -> None:
    """A read returns at most `MAX_STEPS` steps: the newest."""
    monkeypatch.setattr(module, "MAX_STEPS", 1)
    assert [seen(step) for step in read_detail("default", reader, None).steps] == [
        SECOND
    ]


def test_steps_of_an_older_version(leading, reader, django_database) -> None:
    """A column that an older version does not have is optional."""
    django_database.rows(f"ALTER TABLE {STEP_TABLE} DROP COLUMN backwards")
    found = read_detail("default", reader, None)
    assert seen(found.steps[1]) == (2, "migration", "shop.0002", False, None)


@pytest.mark.parametrize("table", [RUN_TABLE, STEP_TABLE])
def test_locked_tables(leading, reader, raw_session, table) -> None:
    """While a migration locks our tables, the known details are kept, with a note."""
    before = read_detail("default", reader, None)
    raw_session.execute(f"BEGIN; LOCK TABLE {table}")
    found = read_detail("default", reader, before)
    assert "lock" in found.note
    assert found.steps == before.steps
    assert found.status == before.status
    assert found.read_at == before.read_at, "its clock goes on"
    raw_session.execute("COMMIT")
    assert read_detail("default", reader, found).note == ""


@pytest.mark.parametrize("table", [RUN_TABLE, STEP_TABLE])
def test_locked_tables_at_the_first_read(leading, reader, raw_session, table) -> None:
    """Without known details, the status says that the tables are locked."""
    raw_session.execute(f"BEGIN; LOCK TABLE {table}")
    found = read_detail("default", reader, None)
    assert found.steps == ()
    assert found.status.state is State.MIGRATING
    assert "lock" in found.status.message
    raw_session.execute("COMMIT")


def test_no_right_to_read_the_steps(
    leading, django_database, log_in_as, new_role, open_session, monkeypatch
) -> None:
    """A role that may not read the steps gets the other details, and tries the steps only once."""
    role = new_role("reader")
    django_database.rows(f"GRANT SELECT ON {RUN_TABLE} TO {role}")
    log_in_as(USER=role)
    reader = PostgresReader(open_session("safe_init status"), BUILD, None)
    first = read_detail("default", reader, None)
    assert first.note == f"permission denied for table {STEP_TABLE}"
    second = read_detail("default", reader, first)
    assert (second.steps, second.role, second.note) == ((), "postgres", "")
    log_in_as(USER="postgres")


def test_a_lost_connection(leading, reader, django_database, monkeypatch) -> None:
    """A connection that ends between two queries makes the database unreachable."""

    def read_and_lose(*args):
        status = read_status(*args)
        pid = reader.session.handshake_pid
        django_database.rows("SELECT pg_terminate_backend(%s, 5000)", pid)
        return status

    monkeypatch.setattr(module, "read_status", read_and_lose)
    with pytest.raises(DatabaseUnreachable, match="The connection to 'default' ended"):
        read_detail("default", reader, None)
