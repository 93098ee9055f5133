"""The PostgreSQL recorder writes runs and steps without delaying the migrations."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from django_safe_init.backends.base.lock import LockWaitTimeout
from django_safe_init.backends.postgresql import recorder as module
from django_safe_init.backends.postgresql.lock import LockSnapshot
from django_safe_init.backends.postgresql.recorder import PostgresRecorder
from django_safe_init.core.heartbeat import Heartbeat
from django_safe_init.core.records import RUN_TABLE, STEP_TABLE
from django_safe_init.core.states import State
from django_safe_init.exceptions import (
    InitializationFailed,
    LockLost,
    MissingPrivilege,
)
from tests.support import wait_until


def with_open_run(recorder: PostgresRecorder) -> PostgresRecorder:
    """Return the recorder with an open run."""
    assert recorder.open_run("test") is None
    return recorder


def snapshot_of(recorder: PostgresRecorder) -> LockSnapshot | None:
    """Return the snapshot that came back with the last write; None if it was dropped."""
    recorder._receive()
    return recorder._snapshot


def test_the_session_of_a_leader(recorder, django_database) -> None:
    """A write names the running step in pg_stat_activity, and returns a snapshot of the locks."""
    with_open_run(recorder).total = 2
    recorder.start_step("shop.0001", backwards=False, atomic=True)
    assert snapshot_of(recorder) == LockSnapshot(leads=False, work_key_pids=frozenset())
    [backend] = django_database.backends()
    assert backend["application_name"] == "safe_init 1/2 shop.0001"


@pytest.mark.parametrize("state", [State.READY, State.ERROR])
def test_an_open_run_is_never_at_its_end(
    recorder, django_database, monkeypatch, state
) -> None:
    """Another session never sees a final state on an open run."""
    with_open_run(recorder).update(State.VALIDATING)
    seen = []
    real = recorder.session.rows

    def read_after(*args):
        found = real(*args)
        run = django_database.newest_run()
        seen.append((run["outcome"], run["state"]))
        return found

    monkeypatch.setattr(recorder.session, "rows", read_after)
    recorder.finish_run("failed", state)
    assert seen == [(None, "validating"), ("failed", state.value)]


@pytest.mark.parametrize("character", ["x", "é", "試", "🚀"])
def test_application_name_fits(recorder, django_database, character) -> None:
    """The application name fits PostgreSQL's 63 bytes, whatever the migration's name."""
    with_open_run(recorder).total = 1
    recorder.start_step("shop." + character * 100, backwards=False, atomic=True)
    assert snapshot_of(recorder) is not None
    [backend] = django_database.backends()
    assert backend["application_name"].startswith("safe_init 1/1 shop.")
    assert len(backend["application_name"].encode()) <= 63


@pytest.mark.parametrize("asked_before_its_end", [True, False])
def test_a_locked_table(
    recorder, raw_session, django_database, asked_before_its_end
) -> None:
    """While a migration locks the tables, progress is dropped; the next write makes up for it."""
    with_open_run(recorder).total = 3
    raw_session.execute(f"BEGIN; LOCK TABLE {STEP_TABLE}")
    recorder.start_step("shop.0001", backwards=False, atomic=True)
    if asked_before_its_end:
        assert snapshot_of(recorder) is None
    recorder.finish_step("done")
    assert snapshot_of(recorder) is None
    raw_session.execute("COMMIT")
    assert django_database.steps() == []
    recorder.start_step("shop.0002", backwards=False, atomic=True)
    assert snapshot_of(recorder) is not None
    assert [(s["name"], s["outcome"]) for s in django_database.steps()] == [
        ("shop.0001", "done"),
        ("shop.0002", None),
    ]
    first, second = django_database.steps()
    assert first["started_at"] < second["started_at"]


def test_the_end_of_a_step_is_made_up_for(
    recorder, raw_session, django_database
) -> None:
    """A step's end that was dropped is written with the next heartbeat."""
    with_open_run(recorder).total = 2
    recorder.start_step("shop.0001", backwards=False, atomic=True)
    assert snapshot_of(recorder) is not None
    raw_session.execute(f"BEGIN; LOCK TABLE {STEP_TABLE}")
    recorder.finish_step("done")
    recorder.heartbeat()
    raw_session.execute("COMMIT")
    assert [step["outcome"] for step in django_database.steps()] == [None]
    recorder.heartbeat()
    assert [step["outcome"] for step in django_database.steps()] == ["done"]


def test_the_start_of_a_non_atomic_step(
    recorder, raw_session, django_database, in_background
) -> None:
    """The start of a non-atomic step waits for a locked table."""
    with_open_run(recorder)
    raw_session.execute(f"BEGIN; LOCK TABLE {STEP_TABLE}")
    starting = in_background(
        lambda: recorder.start_step(
            "shop.0001", backwards=False, atomic=False, detail={"indexes_before": []}
        )
    )
    wait_until(lambda: django_database.backends("wait_event_type = 'Lock'"))
    starting.join(0.7)
    assert starting.is_alive()
    raw_session.execute("COMMIT")
    starting.result()
    [step] = django_database.steps()
    assert (step["atomic"], step["detail"]) == (False, {"indexes_before": []})


def test_a_non_atomic_step_is_on_disk(recorder, django_database) -> None:
    """The start of a non-atomic step is flushed to disk."""
    with_open_run(recorder)
    recorder.start_step("shop.0001", backwards=False, atomic=False)
    assert django_database.value(
        "SELECT pg_current_wal_flush_lsn() >= pg_current_wal_insert_lsn()"
    )
    assert recorder.session.rows("SHOW synchronous_commit") == [("off",)]


def test_a_table_that_stays_locked(recorder, raw_session, monkeypatch) -> None:
    """The end of a run does not wait forever for a locked table."""
    monkeypatch.setattr(module, "_RETRY_SECONDS", 0.0)
    monkeypatch.setattr(module, "_MIN_RETRY_SECONDS", 0.0)
    with_open_run(recorder)
    raw_session.execute(f"BEGIN; LOCK TABLE {RUN_TABLE}")
    with pytest.raises(LockWaitTimeout, match="stayed locked by backend"):
        recorder.finish_run("ready", State.READY)


def test_no_right_to_write(recorder, django_database, new_role) -> None:
    """A role without write privileges gets an error with the GRANT."""
    role = new_role("reader")
    recorder.session.rows(f"SET ROLE {role}")
    with pytest.raises(
        MissingPrivilege, match=r'GRANT SELECT, INSERT, UPDATE, DELETE .* "reader";'
    ):
        recorder.open_run("test")


@pytest.mark.parametrize(
    "write",
    [
        lambda recorder: recorder.update(State.MIGRATING),
        lambda recorder: recorder.finish_run("ready", State.READY),
        lambda recorder: recorder.start_step("a.1", backwards=False, atomic=False),
    ],
)
def test_a_lost_session(recorder, django_database, write) -> None:
    """Every write of a recorder raises `LockLost` if its session is lost."""
    with_open_run(recorder)
    pid = recorder.session.handshake_pid
    django_database.rows("SELECT pg_terminate_backend(%s, 5000)", pid)
    with pytest.raises(LockLost, match="The leader session is gone: terminating"):
        write(recorder)


def test_heartbeat(recorder, django_database) -> None:
    """The heartbeat updates the open run."""
    with_open_run(recorder)
    first = django_database.newest_run()["heartbeat_at"]
    with Heartbeat(recorder.heartbeat, 0.01):
        wait_until(lambda: django_database.newest_run()["heartbeat_at"] > first)
    last = django_database.newest_run()
    assert last["heartbeat_at"] > first
    assert last["outcome"] is None


def test_a_heartbeat_ends_with_its_session(recorder, django_database) -> None:
    """The heartbeat thread ends silently with its session; the leading thread gets `LockLost`."""
    with_open_run(recorder)
    heartbeat = Heartbeat(recorder.heartbeat, 0.01)
    with heartbeat:
        recorder.session.close()
        wait_until(lambda: not heartbeat._thread.is_alive())
    with pytest.raises(LockLost):
        recorder.heartbeat()


def test_a_heartbeat_that_is_not_recorded(recorder, django_database) -> None:
    """The heartbeat continues if the run cannot be updated."""
    with_open_run(recorder)
    django_database.rows(f"ALTER TABLE {RUN_TABLE} DROP COLUMN message")
    moved = (
        "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND query_start > "
        "(SELECT heartbeat_at + interval '0.2 s' FROM django_safe_init_run)"
    )
    pid = recorder.session.handshake_pid
    heartbeat = Heartbeat(recorder.heartbeat, 0.01)
    with heartbeat:
        wait_until(lambda: django_database.value(moved, pid))
        assert heartbeat._thread.is_alive()


def test_a_table_that_cannot_be_written(recorder, django_database) -> None:
    """An error that does not end the session is reported as it is."""
    with_open_run(recorder)
    django_database.rows(f"ALTER TABLE {RUN_TABLE} DROP COLUMN message")
    with pytest.raises(InitializationFailed) as caught:
        recorder.update(State.MIGRATING, "x")
    assert str(caught.value).startswith(
        "The run cannot be recorded: UndefinedColumn: column "
    )
    with pytest.raises(InitializationFailed, match="cannot be recorded"):
        recorder.finish_run("failed", State.ERROR)


def test_a_cancellation_that_comes_late(recorder, monkeypatch) -> None:
    """The end of a run is written although a late cancellation reaches its statement."""
    recorder.open_run("test")
    real, cancellations = recorder.session.rows, [1, 1]

    def rows(*arguments):
        if cancellations:
            cancellations.pop()
            raise psycopg.errors.QueryCanceled(
                "canceling statement due to user request"
            )
        return real(*arguments)

    monkeypatch.setattr(recorder.session, "rows", rows)
    assert recorder.finish_run("interrupted", State.ERROR, "ended") == "interrupted"
    monkeypatch.undo()
    query = "SELECT outcome FROM django_safe_init_run"
    assert recorder.session.rows(query) == [("interrupted",)]


def test_a_run_whose_close_is_repeated(recorder, django_database, monkeypatch) -> None:
    """While the close of a run is retried, the open run shows no final state."""
    with_open_run(recorder).update(State.VALIDATING)
    rows, seen = recorder.session.rows, []

    def refuse_once(statement: str, params: Any = None) -> list[Any]:
        if "outcome = %(outcome)s" in statement:
            run = django_database.newest_run()
            seen.append((run["state"], run["outcome"], run["progress"]))
            if len(seen) == 1:
                raise psycopg.errors.LockNotAvailable
        return rows(statement, params)

    monkeypatch.setattr(recorder.session, "rows", refuse_once)
    assert recorder.finish_run("ready", State.READY) == "ready"
    assert seen == [("validating", None, 0)] * 2
    assert django_database.newest_run()["state"] == "ready"
