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
from django_safe_init.core.records import RUN_TABLE
from django_safe_init.models import Run
from tests.support import wait_until


def make_recorder(lite_session: SQLiteSession, build: str = "x") -> SQLiteRecorder:
    return SQLiteRecorder(lite_session, Build(frozenset(), build), None, print)


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
