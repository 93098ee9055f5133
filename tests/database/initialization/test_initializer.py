"""`initialize()`: lead, follow, or do nothing."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import psycopg
import pytest
from django.core.management import call_command
from django.core.management.commands.migrate import Command as DjangoMigrate
from django.db import connection, connections, transaction
from django.db.models.signals import post_migrate
from django.test import override_settings

from django_safe_init import (
    ConfigurationError,
    DatabaseUnreachable,
    InitializationFailed,
    LeaderFailed,
    LockLost,
    State,
    UnsafeConnection,
    UnsupportedEngine,
    ValidationFailed,
    initialize,
)
from django_safe_init.backends.postgresql.lock import AdvisoryLock
from django_safe_init.backends.postgresql.lock_keys import leader_key, work_key
from django_safe_init.backends.postgresql.recorder import PostgresRecorder
from django_safe_init.backends.postgresql.schema import ensure_tables
from django_safe_init.backends.sqlite3.lock_file import FileLock
from django_safe_init.core.build import current_build
from django_safe_init.core.records import RUN_TABLE
from django_safe_init.initialization.initializer import Initializer, wait_for_server
from django_safe_init.initialization.migrate_command import run_migrate
from django_safe_init.initialization.run_context import current_listener
from django_safe_init.initialization.types import InitializationOptions, MigrateTask
from django_safe_init.signals import state_changed
from tests.database.conftest import INITIAL
from tests.support import wait_until

pytestmark = pytest.mark.every_django

ADVISORY = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory'"


@pytest.fixture
def states():
    """Yield the states that this process enters."""
    seen: list[str] = []

    def note(new: State, **kwargs) -> None:
        seen.append(new.value)

    state_changed.connect(note)
    yield seen
    state_changed.disconnect(note)


def test_an_empty_database(django_database, small_shop, states) -> None:
    """On an empty database this process leads, applies each migration once and records it."""
    outcome = initialize()
    assert (outcome.result, outcome.role, outcome.error) == ("ready", "leader", None)
    assert outcome.database == "default"
    assert outcome.applied == ("shop.0001_initial", "shop.0002_sale")
    assert 0 <= outcome.waited_seconds <= outcome.duration_seconds
    assert django_database.applied_once() == ["shop.0001_initial", "shop.0002_sale"]
    run = django_database.newest_run()
    assert outcome.run == run["id"]
    assert (run["outcome"], run["state"], run["progress"]) == ("ready", "ready", 100)
    assert (run["done"], run["total"], run["command"]) == (2, 2, "initialize")
    assert [(step["name"], step["outcome"]) for step in django_database.steps()] == [
        ("shop.0001_initial", "done"),
        ("shop.0002_sale", "done"),
    ]
    assert states == [
        "connecting",
        "acquiring_lock",
        "checking_schema",
        "migrating",
        "validating",
        "ready",
    ]


def test_nothing_is_left_behind(django_database, small_shop) -> None:
    """After `initialize` no lock and no tracker remain, and the caller's connection is back."""
    before = connections["default"]
    initialize()
    assert connections["default"] is before
    assert current_listener("default") is None
    wait_until(lambda: not django_database.rows(ADVISORY))
    wait_until(lambda: not django_database.backends("application_name ~ 'safe_init'"))


def test_the_fast_path(django_database, small_shop, states, monkeypatch) -> None:
    """On a ready database `initialize` takes no lock and opens no run."""
    first = initialize()
    states.clear()
    monkeypatch.setattr("django_safe_init.initialization.election.Election", None)
    second = initialize()
    assert (second.result, second.role, second.applied) == ("ready", "none", ())
    assert second.run == first.run
    assert states == ["connecting", "ready"]
    assert len(django_database.runs()) == 1


def test_another_app_is_another_build(django_database, small_shop, settings) -> None:
    """A build with the same migrations and another app runs `post_migrate` again."""
    initialize()
    settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, "django.contrib.messages"]
    outcome = initialize()
    assert (outcome.role, outcome.applied) == ("leader", ())


def test_migrated_by_hand(django_database, small_shop) -> None:
    """After Django's own `migrate` the first leader applies nothing and completes the build."""
    call_command(DjangoMigrate(), verbosity=0)
    outcome = initialize()
    assert (outcome.role, outcome.applied) == ("leader", ())
    assert initialize().role == "none"


def test_an_older_build(django_database, small_shop) -> None:
    """An older build becomes ready on a newer schema without changing it."""
    small_shop.write("0003_more")
    initialize()
    small_shop.remove("0003_more")
    assert initialize().result == "ready"
    assert len(django_database.applied_once()) == 3


def test_post_migrate_fails(django_database, small_shop) -> None:
    """A `post_migrate` receiver that raises fails the run, and the next run completes it."""

    def fail(**kwargs) -> None:
        raise ValueError("no permissions")

    post_migrate.connect(fail)
    try:
        with pytest.raises(InitializationFailed, match="ValueError: no permissions"):
            initialize()
    finally:
        post_migrate.disconnect(fail)
    assert len(django_database.applied_once()) == 2
    outcome = initialize()
    assert (outcome.role, outcome.applied) == ("leader", ())


def test_the_message_during_post_migrate(django_database, small_shop) -> None:
    """During `post_migrate` the run's message is "post_migrate"."""
    seen = []

    def read_message(**kwargs) -> None:
        seen.append(django_database.newest_run()["message"])

    post_migrate.connect(read_message)
    try:
        initialize()
    finally:
        post_migrate.disconnect(read_message)
    assert set(seen) == {"post_migrate"}


def test_an_invalid_index(django_database, small_shop, caplog) -> None:
    """An invalid index is logged with the SQL that repairs it, and the run succeeds."""
    initialize()
    django_database.rows("CREATE INDEX broken ON shop_product (name)")
    django_database.rows(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'broken'::regclass"
    )
    small_shop.write("0003_more")
    initialize()
    line = "The index broken is invalid. Repair it: REINDEX INDEX CONCURRENTLY broken;"
    assert f"Validation of default: {line}" in caplog.messages


def test_a_migrate_that_applies_nothing(django_database, small_shop) -> None:
    """A `migrate` that leaves migrations unapplied fails validation."""
    task = MigrateTask(lambda: None, "test")
    with pytest.raises(ValidationFailed) as caught:
        Initializer(InitializationOptions(task)).run()
    assert str(caught.value) == (
        "Not applied after `migrate`: shop.0001_initial, shop.0002_sale."
    )
    assert django_database.newest_run()["outcome"] == "failed"


def test_a_third_death(django_database, session, small_shop) -> None:
    """After three deaths of this build's leaders in a row the next start fails once."""
    ensure_tables(session)
    for _ in range(3):
        PostgresRecorder(session, current_build(), None).open_run("test")
    with pytest.raises(LeaderFailed, match="3 times in a row") as caught:
        initialize()
    assert caught.value.run == django_database.newest_run()["id"]
    assert initialize().role == "leader"


def test_more_losses_than_restarts(django_database, small_shop, settings) -> None:
    """A process that loses its connection more than `RESTARTS` times exits with code 5."""
    settings.SAFE_INIT = {"IN_TESTS": True, "RESTARTS": 1}

    def lose(schema_connection) -> None:
        with schema_connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    small_shop.run("0003_lose", lose)
    with pytest.raises(LockLost) as caught:
        initialize()
    assert caught.value.exit_code == 5
    assert str(caught.value).startswith("Lost the leader lock 2 times")
    assert [run["outcome"] for run in django_database.runs()] == ["transient"] * 2


def test_the_third_loss_of_a_fleet(django_database, small_shop, settings) -> None:
    """The third transient end in a row is recorded as a failure, and the error counts them."""
    settings.SAFE_INIT = {"IN_TESTS": True, "RESTARTS": 0}

    def lose(schema_connection) -> None:
        with schema_connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    small_shop.run("0003_lose", lose)
    for _ in range(2):
        with pytest.raises(LockLost):
            initialize()
    with pytest.raises(InitializationFailed) as caught:
        initialize()
    assert str(caught.value).startswith(
        "3 times in a row, the last time: shop.0003_lose: "
    )
    outcomes = [run["outcome"] for run in django_database.runs()]
    assert outcomes == ["transient", "transient", "failed"]


@pytest.mark.parametrize(
    "error",
    [
        psycopg.errors.SerializationFailure,
        psycopg.errors.DeadlockDetected,
        psycopg.errors.LockNotAvailable,
    ],
)
def test_a_transient_failure(django_database, small_shop, settings, error) -> None:
    """A deadlock, serialization failure or lock timeout is recorded as transient."""
    settings.SAFE_INIT = {**settings.SAFE_INIT, "DDL_LOCK_TIMEOUT": None}

    def fail(connection) -> None:
        raise error("bad luck")

    small_shop.run("0003_fail", fail)
    with pytest.raises(InitializationFailed, match="bad luck"):
        initialize()
    assert django_database.newest_run()["outcome"] == "transient"


# Modes


def test_off(django_database, small_shop) -> None:
    """In mode "off" only Django's `migrate` runs: no lock, no status table."""
    outcome = initialize(mode="off")
    assert (outcome.result, outcome.role) == ("ready", "none")
    assert len(django_database.applied_once()) == 2
    assert django_database.value(f"SELECT to_regclass('{RUN_TABLE}')") is None


def test_in_tests(django_database, small_shop, settings) -> None:
    """In a project's own tests the mode is "off"."""
    settings.SAFE_INIT = {}
    initialize()
    assert django_database.value(f"SELECT to_regclass('{RUN_TABLE}')") is None


def test_external(django_database, small_shop) -> None:
    """In mode "external" `initialize` returns once the build is ready, and never leads."""
    initialize(mode="off")
    outcome = initialize(mode="external")
    assert (outcome.result, outcome.role, outcome.run) == ("ready", "none", None)
    assert django_database.value(f"SELECT to_regclass('{RUN_TABLE}')") is None


def test_the_environments_mode(django_database, small_shop, monkeypatch) -> None:
    """DB_INIT_MODE sets the mode unless the caller passes one."""
    monkeypatch.setenv("DB_INIT_MODE", "off")
    initialize()
    assert django_database.value(f"SELECT to_regclass('{RUN_TABLE}')") is None


# Refused calls


def test_unknown_mode(django_database) -> None:
    """`initialize` refuses an unknown mode."""
    with pytest.raises(ConfigurationError, match="There is no mode 'both'"):
        initialize(mode="both")


def test_unknown_alias(django_database) -> None:
    """`initialize` refuses an unknown alias."""
    with pytest.raises(ConfigurationError, match="There is no database 'nowhere'"):
        initialize("nowhere")


def test_negative_timeout(django_database) -> None:
    """`initialize` refuses a negative timeout."""
    with pytest.raises(ConfigurationError) as caught:
        initialize(timeout=-1)
    assert str(caught.value) == "A time-out of -1 seconds is not possible."


def test_inside_a_transaction(django_database, small_shop) -> None:
    """Inside `atomic()` `initialize` is refused, except in mode "off"."""
    with transaction.atomic():
        with pytest.raises(ConfigurationError, match=r"inside transaction\.atomic"):
            initialize()
        initialize(mode="off")


@pytest.mark.parametrize(
    ("settings_of_alias", "error"),
    [({"PORT": "1"}, DatabaseUnreachable), ({"NAME": "nowhere"}, DatabaseUnreachable)],
)
def test_unreachable(
    django_database, log_in_as, small_shop, settings, settings_of_alias, error
) -> None:
    """An unreachable server and an unknown database raise `DatabaseUnreachable`."""
    settings.SAFE_INIT = {**settings.SAFE_INIT, "CONNECT_ATTEMPTS": 1}
    log_in_as(**settings_of_alias)
    with pytest.raises(error):
        initialize()


def test_a_no_op_lock(django_database, small_shop, no_op_lock) -> None:
    """A server whose advisory locks are no-ops gets no leader and no tables."""
    with pytest.raises(UnsafeConnection, match="gives one lock to two sessions"):
        initialize()
    tables = "SELECT * FROM pg_tables WHERE schemaname = 'public'"
    assert django_database.rows(tables) == []


@pytest.mark.parametrize("direct", [None, {}])
def test_a_pooler(django_database, small_shop, settings, monkeypatch, direct) -> None:
    """A process behind a pooler does not lead unless DIRECT declares that sessions are kept."""
    declared = {} if direct is None else {"DIRECT": {"default": direct}}
    settings.SAFE_INIT = {**settings.SAFE_INIT, **declared}
    monkeypatch.setattr(psycopg.ConnectionInfo, "backend_pid", property(lambda _: 1))
    if direct is None:
        with pytest.raises(UnsafeConnection, match="through a connection pooler"):
            initialize()
    else:
        assert initialize().role == "leader"


# An engine without a lock


@pytest.fixture
def other_engine(log_in_as, django_database, tmp_path):
    """Yield the file of `default` with an engine that has no lock."""
    file = tmp_path / "db.sqlite3"
    log_in_as(ENGINE="tests.other_engine", NAME=str(file), OPTIONS={})
    yield file
    log_in_as(**django_database.settings())


def test_another_engine_is_refused(other_engine, shop) -> None:
    """An engine without a lock is refused, and the error names the setting that accepts it."""
    with pytest.raises(UnsupportedEngine, match='"LOCK": "none"'):
        initialize()


def test_another_engine_without_lock(other_engine, shop, settings) -> None:
    """With LOCK = "none" Django's `migrate` runs without a lock."""
    settings.SAFE_INIT = {**settings.SAFE_INIT, "LOCK": "none"}
    shop.write("0001_initial", INITIAL)
    outcome = initialize()
    assert (outcome.result, outcome.role) == ("ready", "none")
    assert "shop_product" in connection.introspection.table_names()
    assert RUN_TABLE not in connection.introspection.table_names()


def test_a_wait_without_a_lock(other_engine, shop, settings, monkeypatch) -> None:
    """Mode "external" waits for as long as migrations are missing."""
    settings.SAFE_INIT = {**settings.SAFE_INIT, "LOCK": "none"}
    shop.write("0001_initial", INITIAL)
    turns = iter(
        [
            lambda: None,
            lambda: None,
            lambda: call_command("migrate", verbosity=0),
        ]
    )
    monkeypatch.setattr(
        "django_safe_init.initialization.unlocked.sleep",
        lambda seconds: next(turns)(),
    )
    outcome = initialize(mode="external")
    assert (outcome.result, outcome.applied) == ("ready", ())
    assert "shop_product" in connection.introspection.table_names()
    assert next(turns, None) is None


# While holding the lock


@pytest.fixture
def before_the_lock():
    """Yield a function that registers a call just before this process tries the lock."""
    calls: list = []

    def call(new: State, **kwargs) -> None:
        if new is State.ACQUIRING_LOCK and calls:
            calls.pop()()

    state_changed.connect(call)
    yield calls.append
    state_changed.disconnect(call)


def test_another_leader_finished_first(
    django_database, small_shop, before_the_lock
) -> None:
    """A process that gets the lock after another leader's success applies nothing."""
    before_the_lock(initialize)
    outcome = Initializer(
        InitializationOptions(MigrateTask(lambda: pytest.fail("it led"), "test"))
    ).run()
    [found] = django_database.runs()
    assert (outcome.result, outcome.run) == ("ready", found["id"])
    wait_until(lambda: not django_database.rows(ADVISORY))


def test_another_leader_failed_first(
    django_database, small_shop, before_the_lock
) -> None:
    """A process that gets the lock after another leader's failure fails with its reason."""

    def fail(connection) -> None:
        raise ValueError("no")

    def fail_first() -> None:
        with pytest.raises(InitializationFailed):
            initialize()

    small_shop.run("0003_fail", fail)
    before_the_lock(fail_first)
    with pytest.raises(LeaderFailed, match=r"shop\.0003_fail: ValueError: no"):
        Initializer(
            InitializationOptions(MigrateTask(lambda: pytest.fail("it led"), "test"))
        ).run()
    wait_until(lambda: not django_database.rows(ADVISORY))


def test_run_checks(django_database, small_shop) -> None:
    """`run_checks` is called once under the lock, and its error releases the lock."""
    seen = []

    def check(deadline) -> None:
        seen.append(len(django_database.holders(leader_key())))
        raise ConfigurationError("not like this")

    task = MigrateTask(lambda: pytest.fail("it led"), "test")
    with pytest.raises(ConfigurationError, match="not like this"):
        Initializer(InitializationOptions(task, run_checks=check)).run()
    assert seen == [1]
    wait_until(lambda: not django_database.rows(ADVISORY))


def test_run_checks_after_a_restart(django_database, small_shop) -> None:
    """A leader that starts over does not call `run_checks` again."""
    checks, lost = [], []

    def lose(connection) -> None:
        if not lost:
            lost.extend(django_database.holders(leader_key()))
            django_database.rows("SELECT pg_terminate_backend(%s, 5000)", lost[0])

    small_shop.run("0003_lose", lose)
    small_shop.run("0004_more", lambda connection: None)
    task = MigrateTask(lambda: run_migrate("default"), "test")
    Initializer(
        InitializationOptions(task, run_checks=lambda deadline: checks.append(True))
    ).run()
    assert checks == [True]
    assert lost


def test_in_an_event_loop(django_database, small_shop) -> None:
    """In an event loop `initialize` is refused, and the error names `ainitialize`."""

    async def call() -> None:
        initialize()

    with pytest.raises(ConfigurationError, match=r"await ainitialize\(\)"):
        asyncio.run(call())


def test_async_unsafe(django_database, small_shop, monkeypatch) -> None:
    """DJANGO_ALLOW_ASYNC_UNSAFE allows `initialize` in an event loop."""
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")

    async def call() -> str:
        return initialize().role

    assert asyncio.run(call()) == "leader"


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3)])
def test_a_failure_while_off(django_database, small_shop, error) -> None:
    """In mode "off" a failed migration raises `InitializationFailed`."""

    def fail(connection) -> None:
        raise error

    small_shop.run("0003_fail", fail)
    with pytest.raises(InitializationFailed, match=type(error).__name__) as caught:
        initialize(mode="off")
    assert caught.value.__cause__ is error


def test_force(django_database, small_shop) -> None:
    """With `force` this process leads although the database is ready."""
    initialize()
    task = MigrateTask(lambda: run_migrate("default"), "test")
    outcome = Initializer(InitializationOptions(task, force=True)).run()
    assert (outcome.role, outcome.applied) == ("leader", ())


def test_a_dead_leaders_backend(django_database, small_shop, connect_raw):
    """A backend that still works for a dead leader is terminated before the migrations start."""
    left = connect_raw()
    left.execute("SELECT pg_advisory_lock_shared(%s)", [work_key()])
    left.execute("BEGIN; CREATE TABLE shop_product ()")
    assert initialize().role == "leader"
    with pytest.raises(psycopg.OperationalError):
        left.execute("COMMIT")


def test_a_session_lost_before_the_migrations(
    django_database, small_shop, monkeypatch, settings
) -> None:
    """A session lost between taking the lock and migrating costs one restart."""
    real, terminated = AdvisoryLock.terminate_predecessors, []

    def terminate_own_session(lock, *args) -> None:
        if not terminated:
            terminated.append(lock.session.handshake_pid)
            django_database.rows("SELECT pg_terminate_backend(%s, 5000)", terminated[0])
        real(lock, *args)

    monkeypatch.setattr(AdvisoryLock, "terminate_predecessors", terminate_own_session)
    lines: list[str] = []
    task = MigrateTask(lambda: run_migrate("default"), "test", report=lines.append)
    assert Initializer(InitializationOptions(task)).run().role == "leader"
    assert len(terminated) == 1
    assert lines[0].endswith("Starting over.")


def test_the_lock_is_lost_at_the_end(django_database, small_shop, settings) -> None:
    """A leader that loses the lock after `post_migrate` does not close its run."""

    def unlock(**kwargs) -> None:
        pid = django_database.holders(leader_key())
        for each in pid:
            django_database.rows("SELECT pg_terminate_backend(%s, 5000)", each)

    post_migrate.connect(unlock)
    settings.SAFE_INIT = {**settings.SAFE_INIT, "RESTARTS": 0}
    try:
        with pytest.raises(LockLost, match="Lost the leader lock 1 times"):
            initialize()
    finally:
        post_migrate.disconnect(unlock)
    assert django_database.newest_run()["outcome"] is None
    assert initialize().result == "ready"


def test_a_receiver_that_fails(django_database, small_shop) -> None:
    """A `state_changed` receiver that raises fails the initialization."""

    def fail(new: State, **kwargs) -> None:
        if new is State.VALIDATING:
            raise ValueError("not valid")

    state_changed.connect(fail)
    try:
        with pytest.raises(InitializationFailed, match="ValueError: not valid"):
            initialize()
    finally:
        state_changed.disconnect(fail)
    assert django_database.newest_run()["outcome"] == "failed"


def test_transitions_are_logged(django_database, small_shop, caplog) -> None:
    """The logger `django_safe_init` logs each transition."""
    with caplog.at_level(logging.INFO, "django_safe_init"):
        initialize()
    assert "default: migrating -> validating" in caplog.messages


def test_nothing_is_printed(django_database, small_shop, capfd) -> None:
    """`initialize` prints nothing."""
    initialize()
    assert capfd.readouterr() == ("", "")


def test_two_databases(django_database, make_database, small_shop, monkeypatch) -> None:
    """`initialize` changes only the database of its alias."""
    other = make_database()
    configured = connections.configure_settings(
        {"default": {}, "other": other.settings()}
    )
    monkeypatch.setitem(connections.settings, "other", configured["other"])
    assert initialize("other").role == "leader"
    assert len(other.applied_once()) == 2
    assert django_database.applied_counts() == {}
    connections["other"].close()
    del connections["other"]


def test_two_projects_in_one_database(django_database, small_shop) -> None:
    """Projects with different LOCK_KEYs have separate runs."""
    for key in ("one", "two"):
        with override_settings(SAFE_INIT={"IN_TESTS": True, "LOCK_KEY": key}):
            assert initialize().role == "leader"
    assert [run["lock_key"] for run in django_database.runs()] == ["one", "two"]


def test_inside_a_migration(django_database, small_shop) -> None:
    """A migration that initializes its own database fails instead of waiting for itself."""
    small_shop.run("0003_again", lambda connection: initialize())
    with pytest.raises(InitializationFailed) as caught:
        initialize()
    text = "shop.0003_again: A migration of 'default' must not initialize 'default'."
    assert str(caught.value) == text
    run = django_database.newest_run()
    assert (run["outcome"], run["error"]) == ("failed", text)


class Stopped(BaseException):
    """An exception that ends a task and is no error of the migration."""


def test_an_exception_that_is_no_error(django_database, small_shop) -> None:
    """Only an error becomes `InitializationFailed`; a cancelled task stays cancelled."""

    def stop(connection: Any) -> None:
        raise Stopped

    small_shop.run("0003_stop", stop)
    with pytest.raises(Stopped):
        initialize()


def test_an_error_of_the_release(lite, small_shop, monkeypatch) -> None:
    """An error while the lock is released names what the run has applied."""

    def release(lock: FileLock) -> None:
        real(lock)
        raise OSError("the disk is gone")

    real = FileLock.release
    monkeypatch.setattr(FileLock, "release", release)
    with pytest.raises(InitializationFailed, match="the disk is gone") as caught:
        initialize()
    assert caught.value.applied == ("shop.0001_initial", "shop.0002_sale")


def test_no_server_to_wait_for(other_engine) -> None:
    """The wait for the server of an unknown engine ends at once."""
    lines: list[str] = []
    wait_for_server("default", lines.append, timeout=60)
    assert lines == []
