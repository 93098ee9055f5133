"""The recorder: visible at once, never in the way, and never a lie."""

from __future__ import annotations

import psycopg
import pytest

from django_safe_init.backends.postgresql import recorder as module
from django_safe_init.backends.postgresql.lock import LockSnapshot
from django_safe_init.backends.postgresql.recorder import PostgresRecorder
from django_safe_init.core.build import Build
from django_safe_init.core.heartbeat import Heartbeat
from django_safe_init.core.records import RUN_TABLE, STEP_TABLE
from django_safe_init.core.states import State
from django_safe_init.exceptions import (
    InitializationFailed,
    LockLost,
    MissingPrivilege,
)
from tests.support import wait_until


def opened(recorder: PostgresRecorder) -> PostgresRecorder:
    """The recorder with a run that is open."""
    assert recorder.open_run("test") is None
    return recorder


def another(recorder: PostgresRecorder, build: str = "x") -> PostgresRecorder:
    return PostgresRecorder(recorder.session, Build(frozenset(), build), None)


def snapshot_of(recorder: PostgresRecorder) -> LockSnapshot | None:
    """Return the snapshot that came back with the last write; None if it was dropped."""
    recorder._receive()
    return recorder._snapshot


def test_a_run(recorder, django_database) -> None:
    """A run is opened, told step by step, and closed; everybody sees it at once."""
    opened(recorder)
    run = django_database.newest_run()
    assert run["id"] == recorder.run_id
    assert (run["build"], run["state"], run["outcome"]) == (
        "x",
        "checking_schema",
        None,
    )
    recorder.total = 2
    recorder.update(State.MIGRATING, "reading")
    recorder.start_step("shop.0001", backwards=False, atomic=True)
    wait_until(lambda: django_database.newest_run()["message"] == "shop.0001")
    run = django_database.newest_run()
    assert (run["state"], run["message"], run["progress"]) == (
        "migrating",
        "shop.0001",
        0,
    )
    [backend] = django_database.backends()
    assert backend["application_name"] == "safe_init 1/2 shop.0001"
    recorder.finish_step("done")
    recorder.start_step("shop.0002", backwards=True, atomic=True)
    assert snapshot_of(recorder) == LockSnapshot(leads=False, work_key_pids=frozenset())
    assert django_database.newest_run()["progress"] == 50
    recorder.finish_step("faked")
    assert recorder.finish_run("ready", State.READY) == "ready"
    run = django_database.newest_run()
    assert (run["outcome"], run["progress"], run["done"]) == ("ready", 100, 2)
    assert run["finished_at"] >= run["started_at"]
    assert [
        (step["position"], step["name"], step["backwards"], step["outcome"])
        for step in django_database.steps()
    ] == [(1, "shop.0001", False, "done"), (2, "shop.0002", True, "faked")]


@pytest.mark.parametrize("state", [State.READY, State.ERROR])
def test_an_open_run_is_never_at_its_end(
    recorder, django_database, monkeypatch, state
) -> None:
    """Whoever looks while a run is being closed sees it at work, or closed."""
    opened(recorder).update(State.VALIDATING)
    seen = []
    real = recorder.session.rows

    def look_after(*args):
        found = real(*args)
        run = django_database.newest_run()
        seen.append((run["outcome"], run["state"]))
        return found

    monkeypatch.setattr(recorder.session, "rows", look_after)
    recorder.finish_run("failed", state)
    assert seen == [(None, "validating"), ("failed", state.value)]


@pytest.mark.parametrize("character", ["x", "é", "試", "🚀"])
def test_application_name_fits(recorder, django_database, character) -> None:
    """PostgreSQL shows the first 63 bytes of the name, whatever a migration is called."""
    opened(recorder).total = 1
    recorder.start_step("shop." + character * 100, backwards=False, atomic=True)
    assert snapshot_of(recorder) is not None
    [backend] = django_database.backends()
    assert backend["application_name"].startswith("safe_init 1/1 shop.")
    assert len(backend["application_name"].encode()) <= 63


@pytest.mark.parametrize("asked_before_its_end", [True, False])
def test_a_locked_table_does_not_hold_the_work_up(
    recorder, raw_session, django_database, asked_before_its_end
) -> None:
    """While a migration locks the tables progress is dropped; what comes next makes up."""
    opened(recorder).total = 3
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
    """A step whose start was written and whose end was dropped gets its end later."""
    opened(recorder).total = 2
    recorder.start_step("shop.0001", backwards=False, atomic=True)
    assert snapshot_of(recorder) is not None
    raw_session.execute(f"BEGIN; LOCK TABLE {STEP_TABLE}")
    recorder.finish_step("done")
    recorder.heartbeat()
    raw_session.execute("COMMIT")
    assert [step["outcome"] for step in django_database.steps()] == [None]
    recorder.heartbeat()
    assert [step["outcome"] for step in django_database.steps()] == ["done"]


def test_a_start_mark_insists(
    recorder, raw_session, django_database, in_background
) -> None:
    """The mark of a non-atomic step is there before the step: it waits for a locked table."""
    opened(recorder)
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


def test_a_start_mark_is_on_disk(recorder, django_database) -> None:
    """The mark survives a crash of the server: it is flushed, unlike mere progress."""
    opened(recorder)
    recorder.start_step("shop.0001", backwards=False, atomic=False)
    assert django_database.value(
        "SELECT pg_current_wal_flush_lsn() >= pg_current_wal_insert_lsn()"
    )
    assert recorder.session.rows("SHOW synchronous_commit") == [("off",)]


def test_insisting_ends(recorder, raw_session, monkeypatch) -> None:
    """A table that stays locked is not waited for for ever."""
    monkeypatch.setattr(module, "_RETRY_SECONDS", 0.0)
    opened(recorder)
    raw_session.execute(f"BEGIN; LOCK TABLE {RUN_TABLE}")
    with pytest.raises(psycopg.errors.LockNotAvailable):
        recorder.finish_run("ready", State.READY)


def test_an_abandoned_run_is_closed(recorder, django_database) -> None:
    """The next run closes what a dead leader left open, and says where it died."""
    opened(recorder).update(State.MIGRATING, "shop.0007")
    opened(another(recorder))
    dead, present = django_database.runs()
    assert (dead["outcome"], dead["state"]) == ("abandoned", "error")
    assert dead["error"] == f"the leader {dead['leader']} died in shop.0007"
    assert dead["finished_at"]
    assert present["outcome"] is None


def test_an_abandoned_run_that_had_not_begun(recorder, django_database) -> None:
    """A leader that died before it said anything died without a place."""
    opened(recorder)
    opened(another(recorder))
    dead = django_database.runs()[0]
    assert dead["error"] == f"the leader {dead['leader']} died"


def test_another_projects_run_is_left_alone(recorder, django_database) -> None:
    """A run of another LOCK_KEY is not ours to close."""
    opened(recorder)
    opened(PostgresRecorder(recorder.session, Build(frozenset(), "x"), "other"))
    assert [run["outcome"] for run in django_database.runs()] == [None, None]


@pytest.mark.parametrize("outcome", ["interrupted", "transient"])
def test_the_third_transient_end_is_a_failure(
    recorder, django_database, outcome
) -> None:
    """Two transient ends of a build are bad luck, the third is written as a failure."""
    written = []
    for _ in range(3):
        run = opened(another(recorder))
        written.append(run.finish_run(outcome, State.ERROR, "it broke"))
    assert written == [outcome, outcome, "failed"]
    assert django_database.newest_run()["outcome"] == "failed"


def test_other_ends_do_not_add_up(recorder) -> None:
    """Transient ends of other builds, or before a success, do not count."""

    def end(outcome: str, build: str = "x") -> str:
        return opened(another(recorder, build)).finish_run(outcome, State.ERROR, "e")

    assert [end("transient") for _ in range(2)] == ["transient"] * 2
    assert end("ready") == "ready"
    assert [end("transient", "y") for _ in range(2)] == ["transient"] * 2
    assert [end("transient") for _ in range(3)] == ["transient", "transient", "failed"]
    assert end("failed") == "failed"
    assert end("transient") == "transient"


def test_the_third_death_is_a_failure(recorder, django_database) -> None:
    """A migration that kills its process kills three, and no fourth: the reason is told."""
    for _ in range(3):
        opened(another(recorder)).update(State.MIGRATING, "shop.0007")
    fourth = another(recorder)
    reason = fourth.open_run("test")
    leader = django_database.newest_run()["leader"]
    assert (
        reason
        == f"3 times in a row, the last time: the leader {leader} died in shop.0007"
    )
    assert [run["outcome"] for run in django_database.runs()] == [
        "abandoned",
        "abandoned",
        "failed",
    ]
    assert fourth.run_id == django_database.newest_run()["id"]
    assert opened(another(recorder)).run_id


def test_no_right_to_write(recorder, django_database, new_role) -> None:
    """A role that lost its right to write is told the GRANT."""
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
    """Who lost the session lost the lock, and cannot write: that is said."""
    opened(recorder)
    pid = recorder.session.handshake_pid
    django_database.rows("SELECT pg_terminate_backend(%s, 5000)", pid)
    with pytest.raises(LockLost, match="The leader session is gone: terminating"):
        write(recorder)


def test_heartbeat(recorder, django_database) -> None:
    """While a leader works, its sign of life is renewed."""
    opened(recorder)
    first = django_database.newest_run()["heartbeat_at"]
    with Heartbeat(recorder.heartbeat, 0.01):
        wait_until(lambda: django_database.newest_run()["heartbeat_at"] > first)
    last = django_database.newest_run()
    assert last["heartbeat_at"] > first
    assert last["outcome"] is None


def test_a_heartbeat_ends_with_its_session(recorder, django_database) -> None:
    """Without a session the heartbeat stops quietly; the leading thread finds out itself."""
    opened(recorder)
    heartbeat = Heartbeat(recorder.heartbeat, 0.01)
    with heartbeat:
        recorder.session.close()
        wait_until(lambda: not heartbeat._thread.is_alive())
    with pytest.raises(LockLost):
        recorder.heartbeat()


def test_a_heartbeat_that_is_not_recorded(recorder, django_database) -> None:
    """A sign of life that cannot be written is given nevertheless: the leader works."""
    opened(recorder)
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
    """A refusal that is no loss of the session is said to be what it is."""
    opened(recorder)
    django_database.rows(f"ALTER TABLE {RUN_TABLE} DROP COLUMN message")
    with pytest.raises(InitializationFailed) as caught:
        recorder.update(State.MIGRATING, "x")
    assert str(caught.value).startswith(
        "The run cannot be recorded: UndefinedColumn: column "
    )
    with pytest.raises(InitializationFailed, match="cannot be recorded"):
        recorder.finish_run("failed", State.ERROR)


def test_a_cancellation_that_comes_late(recorder, monkeypatch) -> None:
    """The end of a run is written, though what was to cancel something else has met it."""
    recorder.open_run("test")
    real, left = recorder.session.rows, [1, 1]

    def cancelled_twice(*arguments):
        if left:
            left.pop()
            raise psycopg.errors.QueryCanceled(
                "canceling statement due to user request"
            )
        return real(*arguments)

    monkeypatch.setattr(recorder.session, "rows", cancelled_twice)
    assert recorder.finish_run("interrupted", State.ERROR, "ended") == "interrupted"
    monkeypatch.undo()
    query = "SELECT outcome FROM django_safe_init_run"
    assert recorder.session.rows(query) == [("interrupted",)]
