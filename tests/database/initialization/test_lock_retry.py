"""DDL_LOCK_TIMEOUT: a migration that waits for a lock does not block readers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import OperationalError, connection, transaction

from django_safe_init import DDLLockTimeout, InitializationFailed, initialize
from django_safe_init.initialization.initializer import Initializer
from django_safe_init.initialization.types import InitializationOptions, MigrateTask
from tests.database.conftest import INDEX
from tests.support import wait_until

ADD_COLUMN = "migrations.AddField('product', 'stock', models.IntegerField(default=0))"
COLUMN = """
    SELECT count(*)::int FROM pg_attribute
    WHERE attrelid = 'shop_product'::regclass AND attname = 'stock'
"""
BLOCKED = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'relation'"
#: Short for a fast test, and long enough that a reader behind the migration would notice.
TIMEOUT = 0.2


@pytest.fixture
def limit(settings) -> Callable[..., None]:
    """Return a function that sets DDL_LOCK_TIMEOUT and DDL_ATTEMPTS."""

    def set_limit(attempts: int = 10, seconds: float = TIMEOUT) -> None:
        settings.SAFE_INIT = {
            **settings.SAFE_INIT,
            "DDL_LOCK_TIMEOUT": seconds,
            "DDL_ATTEMPTS": attempts,
        }

    return set_limit


@pytest.fixture
def ready_shop(django_database, small_shop):
    """Return the initialized shop with one pending migration."""
    initialize()
    small_shop.write("0003_stock", ADD_COLUMN)
    return small_shop


@pytest.fixture
def report(connect_raw) -> Any:
    """Return a session with an open transaction that has read the table."""
    raw = connect_raw(application_name="report")
    raw.execute("BEGIN; SELECT count(*) FROM shop_product")
    return raw


class Reader:
    """A session that reads the table with a statement timeout."""

    def __init__(self, raw: Any, milliseconds: int) -> None:
        self.raw = raw
        raw.execute(f"SET statement_timeout = {milliseconds}")

    def read(self) -> None:
        self.raw.execute("SELECT count(*) FROM shop_product")


def test_plain_django_blocks_readers(
    django_database, ready_shop, report, connect_raw, in_background
) -> None:
    """Without DDL_LOCK_TIMEOUT a reader blocks behind the ALTER TABLE that waits for a report."""
    reader = Reader(connect_raw(), 1000)
    migration = in_background(
        lambda: initialize(mode="off")  # Django's own migrate
    )
    wait_until(lambda: django_database.value(BLOCKED))
    with pytest.raises(psycopg.errors.QueryCanceled):
        reader.read()
    report.execute("COMMIT")
    migration.result()
    assert django_database.value(COLUMN) == 1


def test_a_reader_is_not_blocked(
    django_database, ready_shop, report, connect_raw, in_background, limit
) -> None:
    """With DDL_LOCK_TIMEOUT a reader waits less than the timeout, through many attempts."""
    limit(attempts=100)
    lines: list[str] = []
    reader = Reader(connect_raw(), 1000)

    def migrate() -> Any:
        task = MigrateTask(
            lambda: call_command("migrate", verbosity=0), "test", report=lines.append
        )
        return Initializer(InitializationOptions(task)).run()

    migration = in_background(migrate)
    reads = 0
    while len(lines) < 3 and migration.is_alive():
        reader.read()
        reads += 1
    assert reads > 10
    report.execute("COMMIT")
    assert migration.result().applied == ("shop.0003_stock",)
    assert django_database.value(COLUMN) == 1
    run = django_database.newest_run()
    assert (run["outcome"], run["done"]) == ("ready", 1)


def attempts_of(caplog) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if "is undone and tried again" in record.getMessage()
    ]


def test_each_attempt_is_reported(
    django_database, ready_shop, report, in_background, limit, caplog
) -> None:
    """The log and the run's message name the blocker of each failed attempt."""
    limit()
    caplog.set_level(logging.INFO, "django_safe_init")
    migration = in_background(initialize)
    wait_until(lambda: attempts_of(caplog))
    message = wait_until(
        lambda: (
            text
            if "attempt" in (text := django_database.newest_run()["message"])
            else ""
        )
    )
    report.execute("COMMIT")
    migration.result()
    pid = report.info.backend_pid
    blocker = f"blocked by pid {pid} (role postgres, report, from 127.0.0.1, idle in "
    query = "BEGIN; SELECT count(*) FROM shop_product)"
    line = attempts_of(caplog)[0]
    assert line.startswith(
        "shop.0003_stock is undone and tried again: no lock within 0.2 s (attempt 1 of 10)"
    )
    assert blocker in line
    assert query in line
    assert message.startswith("shop.0003_stock (attempt ")
    assert blocker in message
    assert django_database.newest_run()["message"] == ""


def test_it_gives_up(django_database, ready_shop, report, limit) -> None:
    """After DDL_ATTEMPTS the run ends as transient and rolled back; the error names the blocker."""
    limit(attempts=2)
    with pytest.raises(DDLLockTimeout) as caught:
        initialize()
    text = str(caught.value)
    assert text.startswith(
        "shop.0003_stock did not get a lock within 0.2 s (attempts: 2); blocked by"
    )
    assert f"SELECT pg_terminate_backend({report.info.backend_pid});" in text
    assert isinstance(caught.value.__cause__, OperationalError)
    assert django_database.value(COLUMN) == 0
    run = django_database.newest_run()
    assert (run["outcome"], run["error"]) == ("transient", text)
    assert django_database.steps()[-1]["outcome"] == "failed"
    report.execute("COMMIT")
    assert initialize().applied == ("shop.0003_stock",)


def test_the_third_time_is_a_failure(
    django_database, ready_shop, report, limit
) -> None:
    """The run fails if three leaders in a row use up their attempts."""
    limit(attempts=1)
    for _ in range(3):
        with pytest.raises(
            InitializationFailed, match=r"shop\.0003_stock did not get a lock"
        ):
            initialize()
    outcomes = [run["outcome"] for run in django_database.runs()]
    assert outcomes == ["ready", "transient", "transient", "failed"]


def test_each_attempt_is_rolled_back(
    django_database, ready_shop, report, in_background, limit
) -> None:
    """An attempt leaves no rows, no model state and no `on_commit` hooks to the next one."""
    limit()
    seen: list[int] = []
    hooks: list[str] = []

    def insert(schema_connection) -> None:
        with connection.cursor() as cursor:
            cursor.execute("INSERT INTO shop_product (name, stock) VALUES ('x', 1)")
            cursor.execute("SELECT count(*) FROM shop_product")
            seen.extend(cursor.fetchone())
        transaction.on_commit(lambda: hooks.append("committed"))
        if len(seen) == 1:
            with connection.cursor() as cursor:
                cursor.execute("LOCK TABLE shop_product")

    ready_shop.callbacks["insert"] = insert
    ready_shop.write(
        "0004_more",
        "migrations.AddField('sale', 'number', models.IntegerField(default=0))",
        "migrations.RunPython(callback('insert'))",
        # With deferred SQL: an index, and a constraint that locks the other table.
        "migrations.AddField('sale', 'other',"
        " models.ForeignKey('shop.Product', models.CASCADE, null=True, related_name='+'))",
    )
    report.execute("COMMIT")
    initialize_until_0003(ready_shop)
    report.execute("BEGIN; SELECT count(*) FROM shop_product")
    migration = in_background(initialize)
    wait_until(lambda: seen)
    wait_until(lambda: "attempt" in django_database.newest_run()["message"])
    report.execute("COMMIT")
    assert migration.result().applied == ("shop.0004_more",)
    assert set(seen) == {1}
    assert len(seen) > 1
    assert hooks == ["committed"]
    constraints = """
        SELECT count(*)::int FROM pg_constraint
        WHERE conrelid = 'shop_sale'::regclass AND contype = 'f'
    """
    assert django_database.value(constraints) == 2
    assert django_database.applied_once()[-1] == "shop.0004_more"


def initialize_until_0003(shop) -> None:
    call_command("migrate", "shop", "0003", verbosity=0)


def test_deferred_sql_waits_within_the_limit(
    django_database, small_shop, connect_raw, in_background, limit
) -> None:
    """The limit also applies to deferred SQL such as foreign key constraints."""
    call_command("migrate", "shop", "0001", verbosity=0)
    limit()
    writer = connect_raw()
    writer.execute("BEGIN; INSERT INTO shop_product (name) VALUES ('x')")
    migration = in_background(initialize)
    wait_until(lambda: "attempt" in django_database.newest_run()["message"])
    writer.execute("COMMIT")
    assert migration.result().applied == ("shop.0002_sale",)


def test_a_reversal(django_database, ready_shop, report, in_background, limit) -> None:
    """A reversal is retried as well."""
    report.execute("COMMIT")
    initialize()
    report.execute("BEGIN; SELECT count(*) FROM shop_product")
    limit()
    reversal = in_background(
        lambda: call_command("migrate", "shop", "0002", verbosity=0)
    )
    wait_until(lambda: "attempt" in django_database.newest_run()["message"])
    report.execute("COMMIT")
    reversal.result()
    assert django_database.value(COLUMN) == 0
    assert "shop.0003_stock" not in django_database.applied_counts()


@pytest.fixture
def half_shop(small_shop):
    """Return the initialized shop with a pending migration that is not one transaction."""
    initialize()
    small_shop.write(
        "0003_half",
        "migrations.RunSQL('CREATE TABLE half ()', 'DROP TABLE half')",
        ADD_COLUMN,
        atomic=False,
    )
    return small_shop


def test_an_operation_is_tried_again(
    django_database, half_shop, report, in_background, limit, caplog
) -> None:
    """Only the operation without its lock is tried again; those before it stay."""
    limit(attempts=100)
    caplog.set_level(logging.INFO, "django_safe_init")
    migration = in_background(initialize)
    wait_until(lambda: attempts_of(caplog))
    assert django_database.has_table("half")
    report.execute("COMMIT")
    assert migration.result().applied == ("shop.0003_half",)
    assert attempts_of(caplog)[0].startswith(
        "shop.0003_half: operation 2 of 2 (AddField product.stock) is undone and tried again: "
    )
    assert django_database.value(COLUMN) == 1


def test_a_later_start_goes_on_with_the_operation(
    django_database, half_shop, report, limit
) -> None:
    """An operation that gets no lock in any attempt leaves those before it, and no doubt."""
    limit(attempts=2)
    with pytest.raises(DDLLockTimeout) as caught:
        initialize()
    assert (
        str(caught.value)
        .splitlines()[0]
        .startswith(
            "shop.0003_half: operation 2 of 2 (AddField product.stock) did not get a lock"
        )
    )
    end = f"SELECT pg_terminate_backend({report.info.backend_pid});"
    assert str(caught.value).endswith(end)
    assert django_database.newest_run()["outcome"] == "transient"
    assert django_database.has_table("half")
    report.execute("COMMIT")
    assert initialize().applied == ("shop.0003_half",)


def test_a_reversal_is_tried_again(
    django_database, half_shop, connect_raw, limit
) -> None:
    """A reversal goes on with the operation that did not get its lock."""
    initialize()
    limit(attempts=2)
    raw = connect_raw()
    raw.execute("BEGIN; SELECT count(*) FROM shop_product")
    for _ in range(2):
        with pytest.raises(CommandError, match=r"operation 2 of 2 .* get a lock"):
            call_command("migrate", "shop", "0002", verbosity=0)
    raw.execute("COMMIT")
    call_command("migrate", "shop", "0002", verbosity=0)
    assert django_database.value(COLUMN) == 0
    assert not django_database.has_table("half")


def test_a_migration_that_applies_itself(
    django_database, small_shop, connect_raw, limit
) -> None:
    """A migration whose class runs its operations is not retried, and has to be run again."""
    initialize()
    limit()
    small_shop.write(
        "0003_half",
        "migrations.RunSQL('CREATE TABLE half ()', 'DROP TABLE half')",
        ADD_COLUMN,
        atomic=False,
    )
    file = small_shop.folder / "0003_half.py"
    file.write_text(
        f"{file.read_text()}\n    def apply(self, *args):"
        "\n        return super().apply(*args)\n"
    )
    raw = connect_raw()
    raw.execute("BEGIN; SELECT count(*) FROM shop_product")
    with pytest.raises(DDLLockTimeout) as caught:
        initialize()
    text = str(caught.value)
    assert "It is not one transaction, so what it did before stays" in text
    assert text.splitlines()[1:] == [
        f"    SELECT pg_terminate_backend({raw.info.backend_pid});",
        "    python manage.py safe_migrate --rerun shop.0003_half",
    ]
    assert django_database.has_table("half")
    assert django_database.newest_run()["outcome"] == "failed"
    assert django_database.steps()[-1]["outcome"] is None


def test_a_reversal_that_runs_itself(
    django_database, small_shop, connect_raw, limit
) -> None:
    """Such a reversal is not retried either, and the error asks to reverse it again."""
    small_shop.write("0003_stock", ADD_COLUMN, atomic=False)
    file = small_shop.folder / "0003_stock.py"
    file.write_text(
        f"{file.read_text()}\n    def unapply(self, *args):"
        "\n        return super().unapply(*args)\n"
    )
    initialize()
    limit()
    raw = connect_raw()
    raw.execute("BEGIN; SELECT count(*) FROM shop_product")
    with pytest.raises(CommandError, match="then reverse it again"):
        call_command("migrate", "shop", "0002", verbosity=0)


def test_an_index_that_is_built_concurrently(
    django_database, small_shop, connect_raw, in_background, limit
) -> None:
    """A concurrent index build has no limit, because no query waits for it."""
    initialize()
    limit()
    small_shop.write("0003_index", INDEX, atomic=False)
    writer = connect_raw()
    writer.execute("BEGIN; INSERT INTO shop_product (name) VALUES ('x')")
    migration = in_background(initialize)
    waits = """
        SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX CONCURRENTLY%%'
        AND wait_event_type = 'Lock' AND clock_timestamp() - query_start > interval '0.6 s'
    """
    wait_until(lambda: django_database.value(waits))
    writer.execute("COMMIT")
    assert migration.result().applied == ("shop.0003_index",)


def test_a_fake(django_database, small_shop, limit) -> None:
    """A faked migration takes no lock."""
    limit()
    call_command("migrate", fake=True, verbosity=0)
    assert {step["outcome"] for step in django_database.steps()} == {"faked"}


def test_a_migration_that_commits(
    django_database, small_shop, connect_raw, limit
) -> None:
    """A migration with COMMIT in its SQL is not retried."""
    initialize()
    limit()
    small_shop.write(
        "0003_commit",
        "migrations.RunSQL("
        "['CREATE TABLE a ()', 'COMMIT', 'LOCK TABLE shop_product NOWAIT'])",
    )
    raw = connect_raw()
    raw.execute("BEGIN; SELECT count(*) FROM shop_product")
    with pytest.raises(DDLLockTimeout, match=r"manage\.py safe_migrate$"):
        initialize()
    assert django_database.has_table("a")


def test_an_error_of_another_kind(django_database, small_shop, limit) -> None:
    """Only a lock timeout is retried."""
    limit()
    calls: list[Any] = []

    def fail(schema_connection) -> None:
        calls.append(schema_connection)
        raise ValueError("wrong")

    small_shop.run("0003_fail", fail)
    with pytest.raises(
        InitializationFailed, match=r"shop\.0003_fail: ValueError: wrong"
    ):
        initialize()
    assert len(calls) == 1


def test_the_lock_is_lost_between_two_attempts(
    django_database, ready_shop, report, in_background, limit
) -> None:
    """A leader that loses its lock between two attempts starts over."""
    limit(seconds=0.5)
    migration = in_background(initialize)
    wait_until(lambda: "attempt" in django_database.newest_run()["message"])
    leader = django_database.newest_run()["backend_pid"]
    django_database.rows("SELECT pg_terminate_backend(%s, 5000)", leader)
    report.execute("COMMIT")
    assert migration.result().applied == ("shop.0003_stock",)
    outcomes = [run["outcome"] for run in django_database.runs()]
    assert outcomes == ["ready", "transient", "ready"]


def test_migrate_reports_the_same_error(
    django_database, ready_shop, report, limit
) -> None:
    """Django's `migrate` command fails with the same message."""
    limit(attempts=1)
    with pytest.raises(
        CommandError, match=r"shop\.0003_stock did not get a lock within 0\.2 s"
    ):
        call_command("migrate", verbosity=0)
