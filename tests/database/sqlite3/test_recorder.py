"""The SQLite recorder: writing, closing and removing runs."""

from __future__ import annotations

from contextlib import closing

import pytest

from django_safe_init import (
    InitializationFailed,
    State,
)
from django_safe_init.backends.sqlite3 import session
from django_safe_init.backends.sqlite3.reader import SQLiteReader
from django_safe_init.backends.sqlite3.recorder import SQLiteRecorder
from django_safe_init.backends.sqlite3.schema import ensure_tables
from django_safe_init.backends.sqlite3.session import SQLiteSession
from django_safe_init.core.build import Build
from django_safe_init.core.records import RUN_TABLE, LostRuns
from django_safe_init.models import Run
from tests.support import wait_until


def make_recorder(lite_session: SQLiteSession, build: str = "x") -> SQLiteRecorder:
    return SQLiteRecorder(lite_session, Build(frozenset(), build), None, print)


def test_the_third_death_is_the_last(lite, lite_session) -> None:
    """After three dead leaders in a row `open_run` returns the reason and opens no run."""
    for _ in range(3):
        writer = make_recorder(lite_session)
        assert writer.open_run("test") is None
        writer.total = 4
        writer.start_step("shop.0001", backwards=False, atomic=True)
    last = make_recorder(lite_session)
    reason = last.open_run("test")
    assert reason.startswith("3 times in a row, the last time: the leader ")
    assert reason.endswith(" died in shop.0001")
    assert last.run_id == writer.run_id
    assert [run["outcome"] for run in lite.runs()] == [
        "abandoned",
        "abandoned",
        "failed",
    ]


def test_a_failure_in_between(lite, lite_session) -> None:
    """Only transient ends in a row count, and a run without a message died without a step."""
    for outcome in ("interrupted", "interrupted", "failed", "interrupted"):
        writer = make_recorder(lite_session)
        writer.open_run("test")
        assert writer.finish_run(outcome, State.ERROR, "no") == outcome
    writer = make_recorder(lite_session)
    writer.open_run("test")
    assert writer.finish_run("transient", State.ERROR) == "transient"
    writer.open_run("test")
    assert writer.finish_run("transient", State.ERROR) == "failed"
    make_recorder(lite_session, "y").open_run("test")
    assert make_recorder(lite_session, "z").open_run("test") is None
    assert lite.runs()[-2]["error"].endswith(" died")


def test_own_losses_do_not_count(lite, lite_session) -> None:
    """Runs that this process lost are closed with its reason, and do not count."""
    lost = LostRuns(reason="the file was replaced")
    for _ in range(5):
        writer = make_recorder(lite_session)
        assert writer.open_run("test", lost) is None
        lost.runs.append(writer.run_id)
    assert [run["outcome"] for run in lite.runs()[:-1]] == ["transient"] * 4
    assert lite.runs()[0]["error"] == "the file was replaced"


def test_a_non_atomic_step_is_finished_at_once(lite, lite_session) -> None:
    """An atomic step's end is written with the next write, and a non-atomic step's end at once."""
    writer = make_recorder(lite_session)
    writer.open_run("test")
    writer.total = 2
    writer.start_step("shop.0001", backwards=False, atomic=True)
    writer.finish_step("done")
    assert [step["outcome"] for step in lite.steps()] == [None]
    writer.start_step("shop.0002", backwards=False, atomic=False)
    writer.finish_step("done")
    assert [step["outcome"] for step in lite.steps()] == ["done", "done"]
    assert lite.newest_run()["progress"] == 99


def test_a_locked_file(lite, lite_session, in_background, monkeypatch) -> None:
    """A write waits for another program's lock, and finally fails with the remedy."""
    writer = make_recorder(lite_session)
    writer.open_run("test")
    checks = []
    monkeypatch.setattr(session.cancellation, "check", lambda: checks.append(1))
    monkeypatch.setattr(session, "_BUSY_SECONDS", 0.05)
    lite_session.close()
    with lite.connect() as raw:
        raw.execute("BEGIN IMMEDIATE")
        writing = in_background(lambda: writer.update(State.MIGRATING, "waits"))
        wait_until(lambda: checks)
        raw.execute("ROLLBACK")
        writing.result()
        assert lite.newest_run()["message"] == "waits"
        raw.execute("BEGIN IMMEDIATE")
        monkeypatch.setattr(session, "WRITE_TIMEOUT_SECONDS", 0)
        with pytest.raises(
            InitializationFailed, match="Another program has been using /"
        ):
            writer.update(State.MIGRATING, "gives up")
    assert lite.newest_run()["message"] == "waits"


def test_a_reader_holds_up_a_commit(
    lite, lite_session, in_background, monkeypatch
) -> None:
    """A commit waits for a reader's transaction to end."""
    monkeypatch.setattr(session, "_BUSY_SECONDS", 0.05)
    lite_session.close()
    checks = []
    monkeypatch.setattr(session.cancellation, "check", lambda: checks.append(1))
    writer = make_recorder(lite_session)
    with lite.connect() as raw:
        raw.execute("BEGIN")
        raw.execute("SELECT * FROM django_safe_init_run").fetchall()
        writing = in_background(lambda: writer.open_run("test"))
        wait_until(lambda: checks)
        raw.execute("ROLLBACK")
        assert writing.result() is None
    assert len(lite.runs()) == 1


def test_columns_of_an_older_version(lite, lite_session) -> None:
    """A missing column of an older version is added, and its rows can be read."""
    lite_session.rows(f"ALTER TABLE {RUN_TABLE} DROP COLUMN message")
    lite_session.rows(
        f"INSERT INTO {RUN_TABLE} (build, state, leader, backend_pid, command, version,"
        " started_at, heartbeat_at) VALUES ('x', 'migrating', 'a:1', 1, 'x', '0',"
        " datetime('now'), datetime('now'))"
    )
    with closing(SQLiteReader("default", Build(frozenset(), "x"), None)) as reader:
        assert reader.peek().latest.message == ""
    ensure_tables(lite_session)
    names = {row["name"] for row in lite.rows(f"PRAGMA table_info({RUN_TABLE})")}
    assert names == {field.column for field in Run._meta.fields}


def test_an_interrupted_step(lite, lite_session) -> None:
    """The detail of an unfinished step is read back."""
    writer = make_recorder(lite_session)
    writer.open_run("test")
    writer.start_step(
        "shop.0001", backwards=True, atomic=False, detail={"indexes_before": ["a"]}
    )
    with closing(SQLiteReader("default", Build(frozenset(), "x"), None)) as reader:
        [step] = reader.interrupted().values()
    assert (step.backwards, step.indexes_before) == (True, {"a"})
    assert step.run == writer.run_id


def test_pruning(lite, lite_session) -> None:
    """The oldest runs are removed, except open, needed and counting runs."""
    for build, outcome in (
        ("x", "ready"),
        ("y", "interrupted"),
        ("x", "transient"),
        ("x", "ready"),
        ("y", "interrupted"),
        ("y", None),
    ):
        writer = make_recorder(lite_session, build)
        writer.open_run("test")
        writer.start_step("shop.0001", backwards=False, atomic=True)
        if outcome is not None:
            writer.finish_run(outcome, State.ERROR)
    make_recorder(lite_session, "y").prune(1, {3})
    assert [run["id"] for run in lite.runs()] == [2, 3, 5, 6]
    assert [step["run_id"] for step in lite.steps()] == [2, 3, 5, 6]
    make_recorder(lite_session).prune(1, set())
    assert [run["id"] for run in lite.runs()] == [3, 6] or [
        run["id"] for run in lite.runs()
    ] == [6]
