"""A migration and its record share one transaction, forwards and backwards."""

from __future__ import annotations

import pytest
from django.core.management import call_command
from django.db import connection, transaction
from django.db.migrations import Migration
from django.db.migrations.recorder import MigrationRecorder
from django.db.models.signals import pre_migrate

from django_safe_init import InitializationFailed, LockLost, initialize
from django_safe_init.backends.postgresql.lock import AdvisoryLock
from django_safe_init.backends.postgresql.lock_keys import work_key
from django_safe_init.backends.postgresql.run_session import PostgresRunSession
from django_safe_init.conf import Settings
from django_safe_init.initialization.interrupted import InterruptedSteps
from django_safe_init.initialization.tracker import MigrationTracker
from tests.support import Database, make_context

TABLE = "SELECT to_regclass('shop_sale') IS NOT NULL"
CONSTRAINTS = """
    SELECT count(*)::int FROM pg_constraint
    WHERE conrelid = 'shop_sale'::regclass AND contype = 'f'
"""


def migrate(*target: str) -> None:
    call_command("migrate", *target, verbosity=0)


def fail_to_record(monkeypatch, method: str, name: str) -> None:
    """Make Django's recorder raise for this migration, at the point where a process may die."""
    real = getattr(MigrationRecorder, method)

    def fail(recorder, app, migration_name) -> None:
        if migration_name == name:
            raise RuntimeError("died")
        real(recorder, app, migration_name)

    monkeypatch.setattr(MigrationRecorder, method, fail)


def test_a_migration_with_deferred_sql(
    django_database, small_shop, monkeypatch
) -> None:
    """If recording a migration fails, its transaction is rolled back, deferred SQL included."""
    with monkeypatch.context() as patched:
        fail_to_record(patched, "record_applied", "0002_sale")
        with pytest.raises(InitializationFailed, match="RuntimeError: died") as caught:
            initialize()
    assert caught.value.applied == ("shop.0001_initial",)
    assert caught.value.failed_migration == "shop.0002_sale"
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert not django_database.value(TABLE)
    assert django_database.applied_once() == ["shop.0001_initial"]
    assert initialize().applied == ("shop.0002_sale",)
    assert django_database.value(CONSTRAINTS) == 1


def test_a_reversal(django_database, small_shop, monkeypatch) -> None:
    """If recording a reversal fails, the reversal is rolled back."""
    initialize()
    with monkeypatch.context() as patched:
        fail_to_record(patched, "record_unapplied", "0002_sale")
        with pytest.raises(RuntimeError, match="died"):
            migrate("shop", "0001")
    assert django_database.value(TABLE)
    assert len(django_database.applied_once()) == 2
    migrate("shop", "0001")
    assert not django_database.value(TABLE)
    assert django_database.applied_once() == ["shop.0001_initial"]


def test_the_rows_of_a_failure(django_database, small_shop, monkeypatch) -> None:
    """A failed run stores its error and the steps that finished before."""
    fail_to_record(monkeypatch, "record_applied", "0002_sale")
    with pytest.raises(InitializationFailed):
        initialize()
    run = django_database.newest_run()
    assert (run["outcome"], run["state"], run["done"]) == ("failed", "error", 1)
    assert run["error"] == "shop.0002_sale: RuntimeError: died"
    assert [(step["name"], step["outcome"]) for step in django_database.steps()] == [
        ("shop.0001_initial", "done"),
        ("shop.0002_sale", "failed"),
    ]


def test_applied_without_the_lock(django_database, small_shop) -> None:
    """A migration that plain Django applied during the run is not applied twice."""

    def record(name: str) -> None:
        django_database.rows(
            "INSERT INTO django_migrations (app, name, applied) VALUES ('shop', %s, now())",
            name,
        )

    done = []
    small_shop.run("0003_fast", lambda connection: record("0004_raced"))
    small_shop.run("0004_raced", done.append)
    outcome = initialize()
    # The first attempt stopped; the second found that nothing was left.
    assert outcome.result == "ready"
    assert done == []
    assert django_database.applied_counts()["shop.0004_raced"] == 1
    first = django_database.runs()[0]
    assert first["outcome"] == "transient"
    assert first["error"] == (
        "The record of shop.0004_raced was changed meanwhile by a program that does not take "
        "the leader lock."
    )


def test_reversed_without_the_lock(django_database, small_shop, settings) -> None:
    """A migration that plain Django reversed during the run is not reversed twice."""
    settings.SAFE_INIT = {**settings.SAFE_INIT, "RESTARTS": 0}

    def forget(connection) -> None:
        django_database.rows("DELETE FROM django_migrations WHERE name = '0003_raced'")

    reversals = []
    small_shop.run("0003_raced", lambda connection: None, reversals.append)
    small_shop.run("0004_slow", lambda connection: None, forget)
    initialize()
    with pytest.raises(Exception, match=r"The record of shop\.0003_raced was changed"):
        migrate("shop", "0002")
    assert reversals == []


def test_a_migration_that_fails(django_database, small_shop) -> None:
    """The error of a failed migration is one line with its name; its cause is the original."""

    def fail(connection) -> None:
        raise ValueError("not\nthis way")

    small_shop.run("0003_fail", fail)
    with pytest.raises(InitializationFailed) as caught:
        initialize()
    assert str(caught.value) == "shop.0003_fail: ValueError: not this way"
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_migration_that_exits(django_database, small_shop) -> None:
    """A migration that calls `sys.exit()` fails the run."""

    def leave(connection) -> None:
        raise SystemExit(0)

    small_shop.run("0003_leave", leave)
    with pytest.raises(InitializationFailed, match="SystemExit"):
        initialize()
    assert django_database.newest_run()["outcome"] == "failed"


def test_a_migration_is_interrupted(django_database, small_shop) -> None:
    """Ctrl-C in a migration rolls it back and closes the run as interrupted."""

    def interrupt(connection) -> None:
        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLE half ()")
        raise KeyboardInterrupt

    small_shop.run("0003_interrupt", interrupt)
    with pytest.raises(KeyboardInterrupt):
        initialize()
    run = django_database.newest_run()
    assert (run["outcome"], run["done"]) == ("interrupted", 2)
    assert django_database.value("SELECT to_regclass('half')") is None
    assert (
        django_database.rows("SELECT 1 FROM pg_locks WHERE locktype = 'advisory'") == []
    )


def test_a_connection_lost_within_a_migration(django_database, small_shop) -> None:
    """A migration whose connection is terminated is rolled back and applied again."""
    pids = []

    def work(connection) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            pids.append(cursor.fetchone()[0])
            cursor.execute("CREATE TABLE made ()")
        if len(pids) == 1:
            django_database.rows("SELECT pg_terminate_backend(%s, 5000)", pids[0])
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")

    small_shop.run("0003_work", work)
    outcome = initialize()
    assert len(pids) == 2
    assert outcome.applied == (
        "shop.0001_initial",
        "shop.0002_sale",
        "shop.0003_work",
    )
    assert [run["outcome"] for run in django_database.runs()] == ["transient", "ready"]


def test_the_leader_session_is_lost(django_database, small_shop) -> None:
    """A leader whose session is terminated stops and starts over."""
    lost = []

    def lose(connection) -> None:
        if not lost:
            lost.append(django_database.newest_run()["backend_pid"])
            django_database.rows("SELECT pg_terminate_backend(%s, 5000)", lost[0])

    small_shop.run("0003_lose", lose)
    small_shop.run("0004_more", lambda connection: None)
    outcome = initialize()
    assert outcome.role == "leader"
    assert django_database.applied_once()[-1] == "shop.0004_more"
    first, second = django_database.runs()
    assert first["outcome"] == "transient"
    assert second["outcome"] == "ready"


def test_the_leader_session_is_lost_too_often(
    django_database, small_shop, settings
) -> None:
    """After `RESTARTS` lost sessions the process gives up and reports the number."""
    settings.SAFE_INIT = {**settings.SAFE_INIT, "RESTARTS": 1}

    def lose(connection) -> None:
        pid = django_database.newest_run()["backend_pid"]
        django_database.rows("SELECT pg_terminate_backend(%s, 5000)", pid)

    small_shop.run("0003_lose", lose)
    small_shop.run("0004_never", lambda connection: None)
    small_shop.run("0005_lose", lose)
    small_shop.run("0006_never", lambda connection: None)
    with pytest.raises(
        LockLost, match=r"^Lost the leader lock 2 times, the last time: "
    ):
        initialize()


def test_a_fake_is_recorded_as_such(django_database, small_shop) -> None:
    """`--fake` records the steps as faked."""
    call_command("migrate", fake=True, verbosity=0)
    assert {step["outcome"] for step in django_database.steps()} == {"faked"}
    assert not django_database.value("SELECT to_regclass('shop_product') IS NOT NULL")


@pytest.fixture
def tracker(session):
    """Yield the tracker of a run that leads, with its fenced connections."""
    lock = AdvisoryLock(session)
    assert lock.try_acquire()
    MigrationRecorder(connection).ensure_schema()
    run_session = PostgresRunSession(make_context(), lock)
    run_session.recorder.ensure_tables()
    run_session.recorder.open_run("test")
    interrupted = InterruptedSteps(run_session, Settings(), (), "default")
    with (
        run_session.connections() as fenced,
        MigrationTracker(fenced, run_session, interrupted) as tracker,
    ):
        yield tracker


def test_an_executor_that_ignores_set_rollback(tracker, django_database) -> None:
    """The tracker refuses to record a migration whose transaction will be rolled back."""
    tracker.on_apply_start(Migration("0001_x", "shop"), backwards=False, fake=False)
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE rolled_back ()")
    transaction.set_rollback(True)
    with pytest.raises(InitializationFailed) as caught:
        tracker.on_apply_success(fake=False)
    assert str(caught.value) == (
        "shop.0001_x left its transaction broken: everything it did is undone."
    )
    assert django_database.value("SELECT to_regclass('rolled_back')") is None
    assert tracker.applied == []


def test_other_aliases_plans(tracker) -> None:
    """A plan of another alias, and a later plan, do not change the total."""
    pre_migrate.send(sender=None, using="other", plan=[1, 2, 3])
    assert tracker.recorder.total == 0
    pre_migrate.send(sender=None, using="default", plan=[1, 2])
    pre_migrate.send(sender=None, using="default", plan=[1, 2, 3])
    assert tracker.recorder.total == 2


def test_a_squashed_migration(django_database, small_shop) -> None:
    """A squashed migration whose parts are applied is recorded without running."""
    initialize()
    small_shop.write("0003_squashed")
    file = small_shop.folder / "0003_squashed.py"
    replaces = "replaces = [('shop', '0001_initial'), ('shop', '0002_sale')]"
    text = file.read_text().replace("atomic = True", f"atomic = True\n    {replaces}")
    file.write_text(text.replace("dependencies = [('shop', '0002_sale')]", ""))
    assert initialize().result == "ready"
    assert "shop.0003_squashed" in django_database.applied_counts()


def test_unlock_all(django_database, small_shop) -> None:
    """After a migration that unlocks everything, the next migration holds the work key again."""
    holders = []

    def discard(connection) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_unlock_all()")

    def read_holders(connection) -> None:
        holders.extend(django_database.holders(work_key()))

    small_shop.run("0003_discard", discard)
    small_shop.run("0004_read", read_holders)
    initialize()
    assert len(holders) == 1


@pytest.mark.parametrize("text", ["a \0 in it", "half a pair: \ud800"])
def test_an_error_that_cannot_be_stored(django_database, small_shop, text) -> None:
    """An error with characters that PostgreSQL cannot store is still recorded."""

    def fail(connection) -> None:
        raise ValueError(text)

    small_shop.run("0003_fail", fail)
    with pytest.raises(InitializationFailed):
        initialize()
    run = django_database.newest_run()
    assert run["outcome"] == "failed"
    assert run["error"].startswith("shop.0003_fail: ValueError: ")


def test_a_connection_of_the_migrations_own(django_database, small_shop, connect_raw):
    """A migration fails the run if it loses a connection that it opened itself."""
    own = connect_raw()

    def lose(connection) -> None:
        pid = own.info.backend_pid
        django_database.rows("SELECT pg_terminate_backend(%s, 5000)", pid)
        own.execute("SELECT 1")

    small_shop.run("0003_lose", lose)
    with pytest.raises(InitializationFailed, match="AdminShutdown"):
        initialize()
    assert [run["outcome"] for run in django_database.runs()] == ["failed"]


def test_an_encoding_that_lacks_a_character(django_database, log_in_as, small_shop):
    """An error that the database's encoding cannot hold is recorded with ASCII escapes."""

    def fail(connection) -> None:
        raise ValueError("試 is not a name")

    name = f"{django_database.name}_latin"
    small_shop.run("0003_fail", fail)
    django_database.rows(
        f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'"
    )
    log_in_as(NAME=name)
    latin = Database(name, django_database.parameters)
    try:
        with pytest.raises(InitializationFailed, match="is not a name"):
            initialize()
        run = latin.newest_run()
        assert run["outcome"] == "failed"
        assert r"ValueError: \u8a66 is not a name" in run["error"]
    finally:
        latin.close()
        log_in_as(NAME=django_database.name)
        django_database.rows(f"DROP DATABASE {name} WITH (FORCE)")
