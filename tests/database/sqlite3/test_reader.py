"""SQLite as it is read: where it is, and what is true about it."""

from __future__ import annotations

import os
from contextlib import closing

import pytest
from django.core.management import call_command
from django.db import connection, connections

from django_safe_init import (
    ConfigurationError,
    DatabaseUnreachable,
    InitializationFailed,
    MissingPrivilege,
    State,
    WaitTimeout,
    get_status,
    initialize,
    is_ready,
)
from django_safe_init.backends import get_features
from django_safe_init.backends.sqlite3.features import MEMORY
from django_safe_init.backends.sqlite3.holder import open_holder
from django_safe_init.backends.sqlite3.lock_file import FileLock, holder
from django_safe_init.backends.sqlite3.memory import MemoryReader
from django_safe_init.backends.sqlite3.paths import database_file, lock_file
from django_safe_init.backends.sqlite3.reader import SQLiteReader
from django_safe_init.backends.sqlite3.recorder import SQLiteRecorder
from django_safe_init.core.build import Build, current_build
from django_safe_init.core.records import RUN_TABLE, RunDetail, TablesUnreadable
from django_safe_init.initialization.initializer import Initializer
from django_safe_init.initialization.migrate_command import run_migrate
from django_safe_init.initialization.types import InitializationOptions, MigrateTask
from django_safe_init.management.commands.safe_init_status import Command as Status
from django_safe_init.management.commands.safe_init_unlock import Command as Unlock
from django_safe_init.status import read_detail
from tests.database.conftest import SALE
from tests.support import make_context


def test_no_file(lite, small_shop) -> None:
    """A database that is not there is not initialized, and looking does not make it."""
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
    """A database that plain Django has migrated is ready, and is led once nevertheless."""
    settings.SAFE_INIT = {"IN_TESTS": True, "MODE": "off"}
    call_command("migrate", verbosity=0)
    settings.SAFE_INIT = {"IN_TESTS": True}
    assert is_ready()
    assert not lite.has_table(RUN_TABLE)
    assert initialize().role == "leader"


def test_ahead_and_superseded(lite, small_shop) -> None:
    """A failed build is ready again once another build's run has done its migrations."""
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
    """An open run whose lock nobody holds reads as an error."""
    writer = SQLiteRecorder(lite_session, current_build(), None, print)
    writer.open_run("test")
    writer.update(State.MIGRATING, "shop.0001")
    status = get_status()
    assert (status.state, status.led) == (State.ERROR, False)
    assert "died in shop.0001" in status.message


def test_while_it_is_locked(lite, lite_session, small_shop, monkeypatch) -> None:
    """While somebody has the file for himself, that is what can be said."""
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
    assert "are locked" in status.message


def test_scene(lite, small_shop) -> None:
    """A watcher sees the steps; who else waits, and what the leader does, cannot be seen."""
    initialize()
    reader = SQLiteReader("default", current_build(), None)
    with closing(reader):
        scene = read_detail("default", reader, None)
        assert [step.name for step in scene.steps] == [
            "shop.0001_initial",
            "shop.0002_sale",
        ]
        assert (scene.role, scene.followers, scene.activity) == (None, None, None)
        run = scene.status.run
        assert reader.run_detail(run, None) == RunDetail()


def test_it_does_not_read_what_is_no_database(lite, small_shop) -> None:
    """A file that is no database is said to be none, with its path."""
    lite.file.write_bytes(b"no database, but long enough to be one" * 100)
    for call in (get_status, initialize):
        with pytest.raises(
            DatabaseUnreachable, match="file is not a database"
        ) as caught:
            call()
        assert str(lite.file) in str(caught.value)


def test_in_memory(memory, small_shop) -> None:
    """In memory nothing is needed: Django's `migrate` is all, and the status is true."""
    assert get_features("default") is MEMORY
    assert get_status().state is State.UNINITIALIZED
    assert initialize().role == "none"
    assert is_ready()
    assert RUN_TABLE not in connection.introspection.table_names()
    reader = MemoryReader("default", current_build())
    assert reader.finished_run() is None
    assert reader.peek() == (None, None)
    assert reader.leader_pid() is None
    assert reader.history(9) == []
    assert not reader.activity().progressing
    assert reader.run_detail(None, 9) == RunDetail()
    assert reader.seconds_left(None, ()) is None
    Unlock().handle(database="default", interactive=False)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("{0}/a b.sqlite3", "{0}/a b.sqlite3"),
        ("file:{0}/a%20b.sqlite3?mode=rwc", "{0}/a b.sqlite3"),
        ("file://localhost{0}/x?cache=private", "{0}/x"),
        ("{0}/link", "{0}/real"),
    ],
)
def test_database_file(lite, tmp_path, name, found) -> None:
    """A path, a URI and a link lead to the real file, so that one file has one lock."""
    (tmp_path / "link").symlink_to(tmp_path / "real")
    connections.settings["default"]["NAME"] = name.format(tmp_path)
    assert database_file("default") == found.format(os.path.realpath(tmp_path))
    assert lock_file("default") == database_file("default") + ".safe-init.lock"


def test_a_path_object(lite, tmp_path) -> None:
    """NAME may be a path object, as in the settings that `startproject` writes."""
    connections.settings["default"]["NAME"] = tmp_path / "x"
    assert database_file("default") == str(tmp_path / "x")


def test_windows(lite, monkeypatch) -> None:
    """Where the operating system has no such lock, the engine has none."""
    monkeypatch.setattr(
        "django_safe_init.backends.sqlite3.features.find_spec", lambda name: None
    )
    assert not get_features("default").is_supported


def test_a_read_only_database(lite, small_shop) -> None:
    """A file that may not be written is named, with the remedy; it can be read."""
    initialize()
    small_shop.write("0003_more", "migrations.RunSQL('SELECT 1')")
    connections.settings["default"]["NAME"] = f"file:{lite.file}?mode=ro"
    assert get_status().pending == ("shop.0003_more",)
    with pytest.raises(MissingPrivilege, match="is read-only for this user: /"):
        initialize()


def test_what_the_leader_does(lite, small_shop) -> None:
    """A leader that gives signs of life is at work; one that gives none, or none, is not."""
    lock = FileLock(lock_file("default"))
    with closing(SQLiteReader("default", current_build(), None)) as reader:
        assert not reader.activity().progressing
        assert lock.try_acquire()
        lock.beat()
        assert reader.activity().progressing
        os.utime(lock.path, (0, 0))
        assert not reader.activity().progressing
        lock.release()


def test_a_transaction_that_breaks_off(lite, lite_session) -> None:
    """What was written before an error is undone, and the session goes on."""
    with pytest.raises(TablesUnreadable), lite_session.writing():
        lite_session.rows("CREATE TABLE x (y)").extend(
            lite_session.rows("SELECT * FROM z")
        )
    assert not lite.has_table("x")
    assert lite_session.rows("SELECT 1 AS one") == [{"one": 1}]


@pytest.mark.parametrize("name", ["", None, 7, "a\0b", "file:?mode=ro"])
def test_no_path(lite, small_shop, name) -> None:
    """A NAME that is no path is an error of the settings, in one sentence."""
    connections.settings["default"]["NAME"] = name
    for call in (get_status, initialize):
        with pytest.raises(ConfigurationError, match="not the path of a file"):
            call()


@pytest.mark.parametrize(
    "name",
    [
        ":memory:",
        "file::memory:?cache=shared",
        "file:x?mode=memory&cache=shared",
        "file:/x?vfs=memdb",
    ],
)
def test_names_of_memory(lite, name) -> None:
    """All ways to say that a database is in memory are understood."""
    connections.settings["default"]["NAME"] = name
    assert get_features("default") is MEMORY


def test_history_of_a_locked_file(lite, small_shop, command_line, monkeypatch) -> None:
    """While the file is locked the status says so, also when it is asked for the history."""
    initialize()
    monkeypatch.setattr("django_safe_init.backends.sqlite3.session._BUSY_SECONDS", 0.05)
    with lite.connect() as raw:
        raw.execute("BEGIN EXCLUSIVE")
        ended = command_line(Status, "safe_init_status", "--json", "--history", "2")
    assert (ended.code, ended.json["state"], ended.json["history"]) == (
        3,
        "migrating",
        [],
    )


def test_locked_when_the_lock_is_taken(lite, small_shop, monkeypatch) -> None:
    """A file that is locked at the very moment of the election is waited for."""
    monkeypatch.setattr("django_safe_init.backends.sqlite3.session._BUSY_SECONDS", 0.05)
    monkeypatch.setattr(
        "django_safe_init.initialization.election._SECONDS_BETWEEN_POLLS", 0.01
    )
    small_shop.remove("0002_sale")
    initialize()
    small_shop.write("0002_sale", SALE)
    lines = []
    with lite.connect() as raw:
        take = FileLock.try_acquire

        def take_and_lock(self: FileLock) -> bool:
            raw.execute("BEGIN EXCLUSIVE")
            return take(self)

        def report(line: str) -> None:
            lines.append(line)
            raw.execute("ROLLBACK")

        monkeypatch.setattr(FileLock, "try_acquire", take_and_lock)
        work = MigrateTask(lambda: run_migrate("default"), "test", report=report)
        assert Initializer(InitializationOptions(work)).run().role == "leader"
    assert lines == [
        "The status tables are locked at the moment, probably by a migration."
    ]


def test_locked_for_good_when_the_lock_is_taken(
    lite, small_shop, settings, monkeypatch
) -> None:
    """In the end that is given up, and the leader lock is free."""
    monkeypatch.setattr("django_safe_init.backends.sqlite3.session._BUSY_SECONDS", 0.01)
    settings.SAFE_INIT = {"IN_TESTS": True, "WAIT_TIMEOUT": 0.1}
    initialize()
    small_shop.write("0003_more", "migrations.RunSQL('SELECT 1')")
    with lite.connect() as raw:
        take = FileLock.try_acquire

        def take_and_lock(self: FileLock) -> bool:
            raw.execute("BEGIN EXCLUSIVE")
            return take(self)

        monkeypatch.setattr(FileLock, "try_acquire", take_and_lock)
        with pytest.raises(WaitTimeout, match="stayed locked"):
            initialize()
    assert holder(lock_file("default")) is None
