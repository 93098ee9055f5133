"""Runs on SQLite: each migration is applied and recorded once."""

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
    """One run applies all migrations, each with its step, and the next start is the fast path."""
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


def test_foreign_keys_are_enabled_again(lite, small_shop) -> None:
    """Foreign keys are off during a migration, and on again afterwards."""
    seen = []

    def read_pragma(connection) -> None:
        with connection.cursor() as cursor:
            seen.append(cursor.execute("PRAGMA foreign_keys").fetchone()[0])

    small_shop.run("0003_read", read_pragma)
    small_shop.run("0004_read", read_pragma, atomic=False)
    initialize()
    connections["default"].ensure_connection()
    read_pragma(connection)
    assert seen == [0, 0, 1]


def test_a_violated_constraint(lite, small_shop) -> None:
    """A migration that leaves a broken foreign key fails and is rolled back."""

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
    """A change for which SQLite copies a referenced table works in the transaction."""
    small_shop.write(
        "0003_name",
        "migrations.AlterField('Product', 'name', models.CharField(max_length=9))",
    )
    small_shop.write("0004_rename", "migrations.RenameModel('Product', 'Article')")
    assert len(initialize().applied) == 4
    assert "shop_article" in connection.introspection.table_names()


def test_applied_without_the_lock(lite, small_shop) -> None:
    """A migration that plain Django applied during the run is not applied twice."""

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
    assert "a program that does not take the leader lock" in lite.runs()[0]["error"]


def execute(connection: Any, *statements: str) -> None:
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def commit(connection: Any) -> None:
    execute(connection, "/* now */ COMMIT", "SELECT 1", "SELECT 2")


def execute_script(connection: Any) -> None:
    connection.connection.executescript("SELECT 1; SELECT 2;")
    execute(connection, "SELECT 1")


@pytest.mark.parametrize("end_transaction", [commit, execute_script])
def test_a_migration_that_commits(lite, small_shop, caplog, end_transaction) -> None:
    """A migration that commits is recorded, with one warning."""
    small_shop.run("0003_ends", end_transaction)
    initialize()
    assert caplog.text.count("shop.0003_ends has committed its transaction") == 1
    assert len(lite.applied_once()) == 3


def roll_back(connection: Any) -> None:
    execute(connection, "-- undo\nROLLBACK")


def roll_back_raw(connection: Any) -> None:
    connection.connection.rollback()
    execute(connection, "SELECT 1")


def fail_and_continue(connection: Any) -> None:
    with suppress(IntegrityError):
        execute(connection, "INSERT OR ROLLBACK INTO shop_product VALUES (1, 'again')")


def fail_raw_and_continue(connection: Any) -> None:
    with suppress(sqlite3.IntegrityError):
        connection.connection.execute(
            "INSERT OR ROLLBACK INTO shop_product VALUES (1, 'again')"
        )


@pytest.mark.parametrize(
    "end_transaction",
    [roll_back, roll_back_raw, fail_and_continue, fail_raw_and_continue],
)
def test_a_migration_that_rolls_back(lite, small_shop, end_transaction) -> None:
    """A migration that rolls its transaction back is not recorded, whichever way it does."""

    def insert_and_roll_back(connection: Any) -> None:
        execute(connection, "INSERT INTO shop_product VALUES (1, 'x')")
        end_transaction(connection)

    small_shop.run("0003_rolls_back", insert_and_roll_back)
    with pytest.raises(InitializationFailed, match="has undone its transaction"):
        initialize()
    assert len(lite.applied_once()) == 2
    assert lite.value("SELECT count(*) FROM shop_product") == 0


@pytest.mark.parametrize("atomic", [True, False])
def test_the_error_of_a_migration(lite, small_shop, atomic) -> None:
    """The error of a failed statement is reported, not a later error of its transaction."""

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


def test_an_error_that_mentions_locks(lite, small_shop) -> None:
    """A run is not transient because its error's text mentions "locked"."""

    def fail(connection: Any) -> None:
        raise ValueError("the price table is locked by finance")

    small_shop.run("0003_fails", fail)
    with pytest.raises(InitializationFailed):
        initialize()
    assert lite.newest_run()["outcome"] == "failed"


def test_another_directory(lite, small_shop, monkeypatch) -> None:
    """A migration that changes the working directory does not change the database file."""
    monkeypatch.chdir(lite.file.parent)
    connections.settings["default"]["NAME"] = f"{lite.file.name}.relative"
    small_shop.run("0003_elsewhere", lambda connection: os.chdir("/"))
    assert initialize().role == "leader"
    assert (lite.file.parent / f"{lite.file.name}.relative.safe-init.lock").exists()


@pytest.mark.parametrize("atomic", [True, False])
def test_a_migration_that_closes_its_connection(lite, small_shop, atomic) -> None:
    """An atomic migration that closes its connection fails; a non-atomic one is recorded."""
    small_shop.run("0003_close", lambda connection: connection.close(), atomic=atomic)
    if atomic:
        with pytest.raises(InitializationFailed, match="on a closed database"):
            initialize()
    else:
        initialize()
    assert len(lite.applied_once()) == (2 if atomic else 3)


def test_the_previous_wrapper_is_restored(lite, small_shop) -> None:
    """The caller's wrapper is restored after the run."""
    connections["default"].ensure_connection()
    before = connections["default"]
    initialize()
    assert connections["default"] is before
    with before.cursor() as cursor:
        assert cursor.execute("PRAGMA foreign_keys").fetchone() == (1,)


def test_locked_for_too_long(lite, small_shop) -> None:
    """A run ends as transient if another process locks the file for too long."""
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


def test_locked_before_the_transaction(lite, small_shop, monkeypatch) -> None:
    """No migration is recorded if its transaction cannot begin."""
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


def insert_interrupted(lite: SqliteDatabase, name: str) -> None:
    """Insert the step of a leader that died in this non-atomic migration."""
    lite.rows(
        "INSERT INTO django_safe_init_step (run_id, position, kind, name, backwards, atomic,"
        " started_at) VALUES (1, 1, 'migration', ?, 0, 0, datetime('now'))",
        name,
    )


def test_unfinished_is_reported(lite, small_shop, settings) -> None:
    """UNFINISHED = "report" reports an interrupted migration, and `--rerun` applies it."""
    initialize()
    ran = []
    name = small_shop.run("0003_data", ran.append, atomic=False)
    insert_interrupted(lite, name)
    settings.SAFE_INIT = {"IN_TESTS": True, "UNFINISHED": "report"}
    with pytest.raises(UnfinishedMigration, match=f"--rerun {name}"):
        initialize()
    task = MigrateTask(
        lambda: call_command("migrate", verbosity=0), "test", rerun=(name,)
    )
    Initializer(InitializationOptions(task, force=True)).run()
    assert len(ran) == 1
    assert lite.applied_once()[-1] == name


def test_cancellation(lite, small_shop, in_background) -> None:
    """A cancellation from another thread ends a running statement."""
    token = CancellationToken()

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
        with token.active():
            initialize()

    thread = in_background(work)
    wait_until(lambda: started)
    token.request_cancel(lambda: KeyboardInterrupt("cancelled"))
    token.cancel_and_join([thread])
    with pytest.raises(KeyboardInterrupt, match="cancelled"):
        thread.result()
    assert lite.newest_run()["outcome"] == "interrupted"
    assert len(lite.applied_once()) == 2


def test_other_threads(lite, small_shop, in_background) -> None:
    """A thread outside the run has an ordinary connection."""

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
    """A read-only file can be read, and leading is a `MissingPrivilege` error."""
    initialize()
    small_shop.write("0003_more", "migrations.RunSQL('SELECT 1')")
    connections.settings["default"]["NAME"] = f"file:{lite.file}?mode=ro"
    assert get_status().pending == ("shop.0003_more",)
    with pytest.raises(MissingPrivilege, match="is read-only for this user: /"):
        initialize()


def test_locked_when_the_lock_is_taken(lite, small_shop, monkeypatch) -> None:
    """A leader waits for a file that is locked when it gets the leader lock."""
    monkeypatch.setattr("django_safe_init.backends.sqlite3.session._BUSY_SECONDS", 0.05)
    monkeypatch.setattr(
        "django_safe_init.initialization.election._SECONDS_BETWEEN_POLLS", 0.01
    )
    small_shop.remove("0002_sale")
    initialize()
    small_shop.write("0002_sale", SALE)
    lines = []
    with lite.connect() as raw:
        try_acquire = FileLock.try_acquire

        def acquire_and_lock(self: FileLock) -> bool:
            raw.execute("BEGIN EXCLUSIVE")
            return try_acquire(self)

        def report(line: str) -> None:
            lines.append(line)
            raw.execute("ROLLBACK")

        monkeypatch.setattr(FileLock, "try_acquire", acquire_and_lock)
        task = MigrateTask(lambda: run_migrate("default"), "test", report=report)
        assert Initializer(InitializationOptions(task)).run().role == "leader"
    assert lines == [
        "The status tables are locked at the moment, probably by a migration."
    ]


def test_locked_until_the_timeout(lite, small_shop, settings, monkeypatch) -> None:
    """A leader whose file stays locked gives up after WAIT_TIMEOUT and releases the leader lock."""
    monkeypatch.setattr("django_safe_init.backends.sqlite3.session._BUSY_SECONDS", 0.01)
    settings.SAFE_INIT = {"IN_TESTS": True, "WAIT_TIMEOUT": 0.1}
    initialize()
    small_shop.write("0003_more", "migrations.RunSQL('SELECT 1')")
    with lite.connect() as raw:
        try_acquire = FileLock.try_acquire

        def acquire_and_lock(self: FileLock) -> bool:
            raw.execute("BEGIN EXCLUSIVE")
            return try_acquire(self)

        monkeypatch.setattr(FileLock, "try_acquire", acquire_and_lock)
        with pytest.raises(WaitTimeout, match="stayed locked"):
            initialize()
    assert holder_pid(lock_file("default")) is None


@pytest.mark.parametrize("mode", ["self", "external"])
def test_no_autocommit(lite, small_shop, mode) -> None:
    """A database without autocommit is refused before any wait, also by a follower."""
    connections.settings["default"]["AUTOCOMMIT"] = False
    with pytest.raises(ConfigurationError, match="has AUTOCOMMIT False"):
        initialize(mode=mode, timeout=60)
