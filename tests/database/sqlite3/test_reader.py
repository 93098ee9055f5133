"""The status of an SQLite file."""

from __future__ import annotations

import os
from contextlib import closing

import pytest
from django.core.management import call_command

from django_safe_init import (
    DatabaseUnreachable,
    InitializationFailed,
    State,
    get_status,
    initialize,
    is_ready,
)
from django_safe_init.backends.sqlite3.holder import open_holder
from django_safe_init.backends.sqlite3.lock_file import FileLock
from django_safe_init.backends.sqlite3.paths import lock_file
from django_safe_init.backends.sqlite3.reader import SQLiteReader
from django_safe_init.backends.sqlite3.recorder import SQLiteRecorder
from django_safe_init.core.build import Build, current_build
from django_safe_init.core.records import (
    RUN_TABLE,
    RunDetail,
    TablesUnreadable,
    leader_name,
)
from django_safe_init.management.commands.safe_init_status import Command as Status
from django_safe_init.status import read_detail
from tests.support import make_context


def test_no_file(lite, small_shop) -> None:
    """A missing file is not initialized, and reading its status does not create it."""
    status = get_status()
    assert (status.state, status.pending) == (
        State.UNINITIALIZED,
        ("shop.0001_initial", "shop.0002_sale"),
    )
    reader = SQLiteReader("default", current_build(), None)
    assert reader.history(3) == []
    assert reader.peek() == (None, None)
    with pytest.raises(TablesUnreadable, match="There is no file"):
        reader.finished_run()
    assert not lite.file.exists()


def test_migrated_by_hand(lite, small_shop, settings) -> None:
    """After Django's own `migrate` the database is ready, and the first start still leads."""
    settings.SAFE_INIT = {"IN_TESTS": True, "MODE": "off"}
    call_command("migrate", verbosity=0)
    settings.SAFE_INIT = {"IN_TESTS": True}
    assert is_ready()
    assert not lite.has_table(RUN_TABLE)
    assert initialize().role == "leader"


def test_ahead_and_superseded(lite, small_shop) -> None:
    """A failed build is ready after another build's run has applied its migrations."""
    failing = small_shop.run("0003_failing", lambda connection: 1 / 0)
    with pytest.raises(InitializationFailed):
        initialize()
    assert get_status().state is State.ERROR
    assert failing.endswith("0003_failing")
    small_shop.remove("0003_failing")
    initialize()
    assert is_ready()
    reader = SQLiteReader("default", Build(frozenset(), "other"), None)
    with closing(reader):
        assert reader.read().ready
        assert not reader.read().finished
        assert reader.finished_run() is None
        assert [run.outcome for run in reader.history(5)] == ["ready", "failed"]


def test_a_dead_leader(lite, lite_session, small_shop) -> None:
    """An open run whose lock is free reads as an error."""
    writer = SQLiteRecorder(lite_session, current_build(), None, print)
    writer.open_run("test")
    writer.update(State.MIGRATING, "shop.0001")
    status = get_status()
    assert (status.state, status.led) == (State.ERROR, False)
    assert "died in shop.0001" in status.message


def test_a_locked_file(lite, lite_session, small_shop, monkeypatch) -> None:
    """While another process has locked the file, the status says so."""
    monkeypatch.setattr("django_safe_init.backends.sqlite3.session._BUSY_SECONDS", 0.05)
    with lite.connect() as raw:
        raw.execute("BEGIN EXCLUSIVE")
        status = get_status()
        lock = FileLock(lock_file("default"))
        assert lock.try_acquire()
        with open_holder(make_context()) as found:
            assert found.run is None
        lock.release()
    assert status.state is State.MIGRATING
    assert "stayed locked" in status.message


def test_detail(lite, small_shop) -> None:
    """The detail contains the steps, but no followers and no activity."""
    initialize()
    reader = SQLiteReader("default", current_build(), None)
    with closing(reader):
        detail = read_detail("default", reader, None)
        assert [step.name for step in detail.steps] == [
            "shop.0001_initial",
            "shop.0002_sale",
        ]
        assert (detail.role, detail.followers, detail.activity) == (None, None, None)
        run = detail.status.run
        assert reader.run_detail(run, None) == RunDetail()
        assert reader.on_primary()


def test_not_a_database(lite, small_shop) -> None:
    """A file that is not a database is a `DatabaseUnreachable` error with its path."""
    lite.file.write_bytes(b"no database, but long enough to be one" * 100)
    for call in (get_status, initialize):
        with pytest.raises(
            DatabaseUnreachable, match="file is not a database"
        ) as caught:
            call()
        assert str(lite.file) in str(caught.value)


def test_activity(lite, small_shop) -> None:
    """A leader is at work only while its lock file has a recent heartbeat."""
    lock = FileLock(lock_file("default"))
    with closing(SQLiteReader("default", current_build(), None)) as reader:
        assert not reader.activity().progressing
        assert lock.try_acquire()
        lock.beat()
        assert reader.activity().progressing
        os.utime(lock.path, (0, 0))
        assert not reader.activity().progressing
        lock.release()


def test_history_of_a_locked_file(lite, small_shop, command_line, monkeypatch) -> None:
    """`safe_init_status --history` reports that the file is locked."""
    initialize()
    monkeypatch.setattr("django_safe_init.backends.sqlite3.session._BUSY_SECONDS", 0.05)
    with lite.connect() as raw:
        raw.execute("BEGIN EXCLUSIVE")
        result = command_line(Status, "safe_init_status", "--json", "--history", "2")
    assert (result.code, result.json["state"], result.json["history"]) == (
        3,
        "migrating",
        [],
    )


def test_a_leader_without_a_run(lite, lite_session, small_shop) -> None:
    """The process that holds the lock has no session, so the message names the process."""
    lock = FileLock(lock_file("default"))
    assert lock.try_acquire()
    try:
        status = get_status()
    finally:
        lock.release()
    assert status.led
    assert status.message.endswith(f" is held by the leader {leader_name()}")
