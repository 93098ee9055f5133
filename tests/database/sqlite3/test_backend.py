"""SQLite: exactly once, whatever a migration does."""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from typing import Any

import pytest
from django.core.management import call_command
from django.db import IntegrityError, connection, connections

from django_safe_init import (
    ConfigurationError,
    InitializationFailed,
    MissingPrivilege,
    UnfinishedMigration,
    WaitTimeout,
    get_status,
    initialize,
    is_ready,
)
from django_safe_init.backends.base.recorder import Fence
from django_safe_init.backends.sqlite3 import session
from django_safe_init.backends.sqlite3.lock_file import FileLock, holder_pid
from django_safe_init.backends.sqlite3.paths import lock_file
from django_safe_init.backends.sqlite3.recorder import SQLiteRecorder
from django_safe_init.core.cancellation import CancellationToken
from django_safe_init.initialization.initializer import Initializer
from django_safe_init.initialization.migrate_command import run_migrate
from django_safe_init.initialization.types import InitializationOptions, MigrateTask
from tests.database.conftest import SALE
from tests.support import SqliteDatabase, wait_until


def test_one_run(lite, small_shop) -> None:
    """All migrations are done in one run, each with its step, and the fast path knows it."""
    outcome = initialize()
    assert (outcome.role, outcome.applied) == (
        "leader",
        ("shop.0001_initial", "shop.0002_sale"),
    )
    [run] = lite.runs()
    assert (run["outcome"], run["state"], run["progress"]) == ("ready", "ready", 100)
    assert run["done"] == run["total"] == 2
    assert run["backend_pid"] == os.getpid()
    assert [(step["name"], step["outcome"]) for step in lite.steps()] == [
        ("shop.0001_initial", "done"),
        ("shop.0002_sale", "done"),
    ]
    assert all(step["finished_at"] >= step["started_at"] for step in lite.steps())
    again = initialize()
    assert (again.role, again.run) == ("none", run["id"])
    assert is_ready()


def test_foreign_keys_are_back(lite, small_shop) -> None:
    """Foreign keys are off while a migration works, and on again for its connection."""
    seen = []

    def look(connection) -> None:
        with connection.cursor() as cursor:
            seen.append(cursor.execute("PRAGMA foreign_keys").fetchone()[0])

    small_shop.run("0003_look", look)
    small_shop.run("0004_look", look, atomic=False)
    initialize()
    connections["default"].ensure_connection()
    look(connection)
    assert seen == [0, 0, 1]


def test_a_violated_constraint(lite, small_shop) -> None:
    """A migration that leaves a broken foreign key fails as with Django, and is undone."""

    def break_it(connection) -> None:
        with connection.cursor() as cursor:
            cursor.execute("INSERT INTO shop_sale (product_id) VALUES (99)")

    small_shop.run("0003_broken", break_it)
    with pytest.raises(
        InitializationFailed, match=r"shop\.0003_broken: Integrity"
    ) as ex:
        initialize()
    assert isinstance(ex.value.__cause__, IntegrityError)
    assert lite.value("SELECT count(*) FROM shop_sale") == 0
    assert lite.newest_run()["outcome"] == "failed"
    assert lite.steps()[-1]["outcome"] == "failed"


def test_tables_are_remade(lite, small_shop) -> None:
    """A change that makes SQLite copy a table that others refer to works in the transaction."""
    small_shop.write(
        "0003_name",
        "migrations.AlterField('Product', 'name', models.CharField(max_length=9))",
    )
    small_shop.write("0004_rename", "migrations.RenameModel('Product', 'Article')")
    assert len(initialize().applied) == 4
    assert "shop_article" in connection.introspection.table_names()


def test_recorded_by_somebody_else_meanwhile(lite, small_shop) -> None:
    """A migration whose record appears after the plan was made is not done twice."""

    def record(connection) -> None:
        with lite.connect() as raw:
            raw.execute(
                "INSERT INTO django_migrations (app, name, applied)"
                " VALUES ('shop', '0004_next', datetime('now'))"
            )

    ran = []
    small_shop.run("0003_record", record, atomic=False)
    small_shop.run("0004_next", ran.append)
    assert initialize().result == "ready"
    assert ran == []
    assert "somebody who does not take the leader lock" in lite.runs()[0]["error"]


def execute(connection: Any, *statements: str) -> None:
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def commit(connection: Any) -> None:
    execute(connection, "/* now */ COMMIT", "SELECT 1", "SELECT 2")


def execute_script(connection: Any) -> None:
    connection.connection.executescript("SELECT 1; SELECT 2;")
    execute(connection, "SELECT 1")


@pytest.mark.parametrize("end", [commit, execute_script])
def test_a_migration_that_commits(lite, small_shop, caplog, end) -> None:
    """It is warned about once, and goes on as in Django."""
    small_shop.run("0003_ends", end)
    initialize()
    assert caplog.text.count("shop.0003_ends has committed its transaction") == 1
    assert len(lite.applied_once()) == 3


def roll_back(connection: Any) -> None:
    execute(connection, "-- undo\nROLLBACK")


def roll_back_below(connection: Any) -> None:
    connection.connection.rollback()
    execute(connection, "SELECT 1")


def fail_and_go_on(connection: Any) -> None:
    with suppress(IntegrityError):
        execute(connection, "INSERT OR ROLLBACK INTO shop_product VALUES (1, 'again')")


def fail_below_and_go_on(connection: Any) -> None:
    with suppress(sqlite3.IntegrityError):
        connection.connection.execute(
            "INSERT OR ROLLBACK INTO shop_product VALUES (1, 'again')"
        )


@pytest.mark.parametrize(
    "end", [roll_back, roll_back_below, fail_and_go_on, fail_below_and_go_on]
)
def test_a_migration_that_undoes_its_transaction(lite, small_shop, end) -> None:
    """It is never recorded as done, however the transaction was undone."""

    def undo(connection: Any) -> None:
        execute(connection, "INSERT INTO shop_product VALUES (1, 'x')")
        end(connection)

    small_shop.run("0003_undoes", undo)
    with pytest.raises(InitializationFailed, match="has undone its transaction"):
        initialize()
    assert len(lite.applied_once()) == 2
    assert lite.value("SELECT count(*) FROM shop_product") == 0


@pytest.mark.parametrize("atomic", [True, False])
def test_the_reason_is_the_migrations_own(lite, small_shop, atomic) -> None:
    """An error in the database is told as it was, not as what it makes of the transaction."""

    def twice(connection: Any) -> None:
        for _ in range(2):
            execute(connection, "INSERT INTO shop_product VALUES (1, 'x')")

    small_shop.run("0003_twice", twice, atomic=atomic)
    with pytest.raises(
        InitializationFailed, match="UNIQUE constraint failed"
    ) as caught:
        initialize()
    assert isinstance(caught.value.__cause__, IntegrityError)
    assert "UNIQUE constraint failed: shop_product.id" in lite.newest_run()["error"]


def test_words_are_not_what_is_transient(lite, small_shop) -> None:
    """An error that only speaks of a locked table is a failure."""

    def fail(connection: Any) -> None:
        raise ValueError("the price table is locked by finance")

    small_shop.run("0003_fails", fail)
    with pytest.raises(InitializationFailed):
        initialize()
    assert lite.newest_run()["outcome"] == "failed"


def test_another_directory(lite, small_shop, monkeypatch) -> None:
    """A migration that changes the working directory does not lead away from the file."""
    monkeypatch.chdir(lite.file.parent)
    connections.settings["default"]["NAME"] = f"{lite.file.name}.relative"
    small_shop.run("0003_elsewhere", lambda connection: os.chdir("/"))
    assert initialize().role == "leader"
    assert (lite.file.parent / f"{lite.file.name}.relative.safe-init.lock").exists()


def test_without_autocommit(lite, small_shop) -> None:
    """What Django cannot migrate is refused."""
    connections.settings["default"]["AUTOCOMMIT"] = False
    with pytest.raises(ConfigurationError, match="has AUTOCOMMIT False"):
        initialize()


@pytest.mark.parametrize("atomic", [True, False])
def test_a_migration_that_closes_its_connection(lite, small_shop, atomic) -> None:
    """Inside a transaction that undoes it, and is said; otherwise Django connects again."""
    small_shop.run("0003_close", lambda connection: connection.close(), atomic=atomic)
    if atomic:
        with pytest.raises(InitializationFailed, match="on a closed database"):
            initialize()
    else:
        initialize()
    assert len(lite.applied_once()) == (2 if atomic else 3)


def test_the_connection_of_the_thread_is_given_back(lite, small_shop) -> None:
    """A connection that this thread had before is there again afterwards, as it was."""
    connections["default"].ensure_connection()
    before = connections["default"]
    initialize()
    assert connections["default"] is before
    with before.cursor() as cursor:
        assert cursor.execute("PRAGMA foreign_keys").fetchone() == (1,)


def test_locked_for_too_long(lite, small_shop) -> None:
    """A file that somebody else writes for too long ends the run as transient."""
    connections.settings["default"]["OPTIONS"] = {"timeout": 0.1}
    with lite.connect() as raw:

        def fail(connection) -> None:
            raw.execute("BEGIN IMMEDIATE")
            try:
                connection.cursor().execute(
                    "INSERT INTO shop_product (name) VALUES ('x')"
                )
            finally:
                raw.execute("ROLLBACK")

        small_shop.run("0003_locked", fail, atomic=False)
        with pytest.raises(InitializationFailed, match="database is locked"):
            initialize()
    assert lite.newest_run()["outcome"] == "transient"


def test_locked_before_it_begins(lite, small_shop, monkeypatch) -> None:
    """Foreign keys are on again after a transaction that could not begin."""
    connections.settings["default"]["OPTIONS"] = {"timeout": 0.1}
    with lite.connect() as raw:
        write = SQLiteRecorder.start_step

        def lock_after(self: SQLiteRecorder, name: str, **how: Any) -> Fence:
            fence = write(self, name, **how)
            if name == "shop.0002_sale":
                raw.execute("BEGIN IMMEDIATE")
            return fence

        monkeypatch.setattr(SQLiteRecorder, "start_step", lock_after)
        monkeypatch.setattr(session, "WRITE_TIMEOUT_SECONDS", 0)
        with pytest.raises(InitializationFailed, match="database is locked"):
            initialize()
        raw.execute("ROLLBACK")
    assert lite.applied_once() == ["shop.0001_initial"]


def interrupted(lite: SqliteDatabase, name: str) -> None:
    """A leader died in the non-atomic migration."""
    lite.rows(
        "INSERT INTO django_safe_init_step (run_id, position, kind, name, backwards, atomic,"
        " started_at) VALUES (1, 1, 'migration', ?, 0, 0, datetime('now'))",
        name,
    )


def test_unfinished_is_reported(lite, small_shop, settings) -> None:
    """A non-atomic migration that was interrupted is reported, and runs again when told to."""
    initialize()
    ran = []
    name = small_shop.run("0003_data", ran.append, atomic=False)
    interrupted(lite, name)
    settings.SAFE_INIT = {"IN_TESTS": True, "UNFINISHED": "report"}
    with pytest.raises(UnfinishedMigration, match=f"--rerun {name}"):
        initialize()
    task = MigrateTask(
        lambda: call_command("migrate", verbosity=0), "test", rerun=(name,)
    )
    Initializer(InitializationOptions(task, force=True)).run()
    assert len(ran) == 1
    assert lite.applied_once()[-1] == name


def test_told_from_outside(lite, small_shop, in_background) -> None:
    """Work on another thread is told to end, also inside a statement of SQLite's."""
    interruption = CancellationToken()

    def count(connection) -> None:
        started.append(1)
        with connection.cursor() as cursor:
            cursor.execute(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"
                " SELECT count(*) FROM n"
            )

    started: list[int] = []
    small_shop.run("0003_count", count)

    def work() -> None:
        with interruption.active():
            initialize()

    thread = in_background(work)
    wait_until(lambda: started)
    interruption.request_cancel(lambda: KeyboardInterrupt("told"))
    interruption.cancel_and_join([thread])
    with pytest.raises(KeyboardInterrupt, match="told"):
        thread.result()
    assert lite.newest_run()["outcome"] == "interrupted"
    assert len(lite.applied_once()) == 2


def test_other_connections_are_left_alone(lite, small_shop, in_background) -> None:
    """What other threads do with the alias meanwhile is none of the run's business."""

    def other() -> int:
        with connections["default"].cursor() as cursor:
            return int(cursor.execute("SELECT 41 + 1").fetchone()[0])

    answers = []
    small_shop.run(
        "0003_other", lambda connection: answers.append(in_background(other).result())
    )
    initialize()
    assert answers == [42]


def test_a_read_only_database(lite, small_shop) -> None:
    """A file that may not be written is named, with the remedy; it can be read."""
    initialize()
    small_shop.write("0003_more", "migrations.RunSQL('SELECT 1')")
    connections.settings["default"]["NAME"] = f"file:{lite.file}?mode=ro"
    assert get_status().pending == ("shop.0003_more",)
    with pytest.raises(MissingPrivilege, match="is read-only for this user: /"):
        initialize()


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
        task = MigrateTask(lambda: run_migrate("default"), "test", report=report)
        assert Initializer(InitializationOptions(task)).run().role == "leader"
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
    assert holder_pid(lock_file("default")) is None
