"""The two tables on SQLite: what is written, and what is removed."""

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


def recorder(lite_session: SQLiteSession, build: str = "x") -> SQLiteRecorder:
    return SQLiteRecorder(lite_session, Build(frozenset(), build), None, print)


def test_the_third_death_is_the_last(lite, lite_session) -> None:
    """What a dead leader left open is closed; after the third in a row no run is opened."""
    for _ in range(3):
        writer = recorder(lite_session)
        assert writer.open_run("test") is None
        writer.total = 4
        writer.start_step("shop.0001", backwards=False, atomic=True)
    last = recorder(lite_session)
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
    """Only ends in a row count; a run without a message has none to tell."""
    for outcome in ("interrupted", "interrupted", "failed", "interrupted"):
        writer = recorder(lite_session)
        writer.open_run("test")
        assert writer.finish_run(outcome, State.ERROR, "no") == outcome
    writer = recorder(lite_session)
    writer.open_run("test")
    assert writer.finish_run("transient", State.ERROR) == "transient"
    writer.open_run("test")
    assert writer.finish_run("transient", State.ERROR) == "failed"
    recorder(lite_session, "y").open_run("test")
    assert recorder(lite_session, "z").open_run("test") is None
    assert lite.runs()[-2]["error"].endswith(" died")


def test_own_losses_are_no_strikes(lite, lite_session) -> None:
    """Runs that this process has lost are closed with its reason, and do not count."""
    lost = LostRuns(reason="the file was replaced")
    for _ in range(5):
        writer = recorder(lite_session)
        assert writer.open_run("test", lost) is None
        lost.runs.append(writer.run_id)
    assert [run["outcome"] for run in lite.runs()[:-1]] == ["transient"] * 4
    assert lite.runs()[0]["error"] == "the file was replaced"


def test_a_non_atomic_step_is_finished_at_once(lite, lite_session) -> None:
    """The end of an atomic step is written with what comes next, of another one now."""
    writer = recorder(lite_session)
    writer.open_run("test")
    writer.total = 2
    writer.start_step("shop.0001", backwards=False, atomic=True)
    writer.finish_step("done")
    assert [step["outcome"] for step in lite.steps()] == [None]
    writer.start_step("shop.0002", backwards=False, atomic=False)
    writer.finish_step("done")
    assert [step["outcome"] for step in lite.steps()] == ["done", "done"]
    assert lite.newest_run()["progress"] == 99


def test_it_waits_for_others(lite, lite_session, in_background, monkeypatch) -> None:
    """A file that somebody else writes is waited for; in the end that fails, with the remedy."""
    writer = recorder(lite_session)
    writer.open_run("test")
    refused = []
    monkeypatch.setattr(session.cancellation, "check", lambda: refused.append(1))
    monkeypatch.setattr(session, "_BUSY_SECONDS", 0.05)
    lite_session.close()
    with lite.connect() as raw:
        raw.execute("BEGIN IMMEDIATE")
        writing = in_background(lambda: writer.update(State.MIGRATING, "waits"))
        wait_until(lambda: refused)
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
    """A commit that a reader holds up is made once the reader has gone."""
    monkeypatch.setattr(session, "_BUSY_SECONDS", 0.05)
    lite_session.close()
    refused = []
    monkeypatch.setattr(session.cancellation, "check", lambda: refused.append(1))
    writer = recorder(lite_session)
    with lite.connect() as raw:
        raw.execute("BEGIN")
        raw.execute("SELECT * FROM django_safe_init_run").fetchall()
        writing = in_background(lambda: writer.open_run("test"))
        wait_until(lambda: refused)
        raw.execute("ROLLBACK")
        assert writing.result() is None
    assert len(lite.runs()) == 1


def test_columns_of_an_older_version(lite, lite_session) -> None:
    """A column that an older version did not know is added, and its rows are read."""
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


def test_what_a_mark_remembers(lite, lite_session) -> None:
    """What a start mark was given comes back with it."""
    writer = recorder(lite_session)
    writer.open_run("test")
    writer.start_step(
        "shop.0001", backwards=True, atomic=False, detail={"indexes_before": ["a"]}
    )
    with closing(SQLiteReader("default", Build(frozenset(), "x"), None)) as reader:
        [mark] = reader.interrupted().values()
    assert (mark.backwards, mark.indexes_before) == (True, {"a"})
    assert mark.run == writer.run_id


def test_pruning(lite, lite_session) -> None:
    """The oldest runs go with their steps: not the open, the needed, the counting ones."""
    for build, outcome in (
        ("x", "ready"),
        ("y", "interrupted"),
        ("x", "transient"),
        ("x", "ready"),
        ("y", "interrupted"),
        ("y", None),
    ):
        writer = recorder(lite_session, build)
        writer.open_run("test")
        writer.start_step("shop.0001", backwards=False, atomic=True)
        if outcome is not None:
            writer.finish_run(outcome, State.ERROR)
    recorder(lite_session, "y").prune(1, {3})
    assert [run["id"] for run in lite.runs()] == [2, 3, 5, 6]
    assert [step["run_id"] for step in lite.steps()] == [2, 3, 5, 6]
    recorder(lite_session).prune(1, set())
    assert [run["id"] for run in lite.runs()] == [3, 6] or [
        run["id"] for run in lite.runs()
    ] == [6]
