"""A migration's transaction on PostgreSQL."""

from __future__ import annotations

import pytest
from django.db import DatabaseError, connection, transaction
from psycopg import IsolationLevel

from django_safe_init import InitializationFailed, initialize


@pytest.mark.parametrize("way", ["set_rollback", "swallowed"])
def test_a_broken_transaction(django_database, small_shop, way) -> None:
    """A migration that marks its transaction for rollback is not recorded as applied."""

    def spoil(connection) -> None:
        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLE spoilt ()")
        if way == "set_rollback":
            transaction.set_rollback(True)
        else:
            connection.needs_rollback = True

    small_shop.run("0003_spoil", spoil)
    with pytest.raises((InitializationFailed, DatabaseError)) as caught:
        initialize()
    assert "0003_spoil" in str(caught.value)
    assert django_database.value("SELECT to_regclass('spoilt')") is None
    assert "shop.0003_spoil" not in django_database.applied_counts()
    assert django_database.newest_run()["outcome"] == "failed"


def test_a_closed_connection_inside_a_migration(django_database, small_shop) -> None:
    """An atomic migration that closes its connection fails and is not recorded."""

    def close(schema_connection) -> None:
        connection.close()

    small_shop.run("0003_close", close)
    with pytest.raises(InitializationFailed, match="0003_close"):
        initialize()
    assert "shop.0003_close" not in django_database.applied_counts()


TABLES_MADE = "SELECT num_nonnulls(to_regclass('a'), to_regclass('b'))"


def test_a_migration_that_commits(django_database, small_shop, caplog) -> None:
    """A migration with COMMIT in its SQL is recorded, and a warning recommends `atomic = False`."""
    small_shop.write(
        "0003_end",
        'migrations.RunSQL(["CREATE TABLE a ()", "COMMIT", "CREATE TABLE b ()"])',
    )
    assert initialize().applied[-1] == "shop.0003_end"
    assert django_database.value(TABLES_MADE) == 2
    [text] = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert text.startswith("shop.0003_end has committed its transaction itself.")
    assert "needs atomic = False." in text


def test_a_migration_that_rolls_back(django_database, small_shop) -> None:
    """A migration with ROLLBACK in its SQL fails and is not recorded."""
    small_shop.write(
        "0003_end",
        'migrations.RunSQL(["CREATE TABLE a ()", "ROLLBACK", "CREATE TABLE b ()"])',
    )
    with pytest.raises(InitializationFailed) as caught:
        initialize()
    text = str(caught.value)
    assert text.startswith("shop.0003_end has undone its transaction, so what it did")
    assert "needs atomic = False." in text
    assert "shop.0003_end" not in django_database.applied_counts()
    assert django_database.value(TABLES_MADE) == 0


@pytest.fixture
def durable(log_in_as) -> None:
    """Make commits wait for the disk, as PostgreSQL does by default."""
    log_in_as(OPTIONS={"options": "-c synchronous_commit=on"})


@pytest.mark.usefixtures("durable")
def test_commits_do_not_wait_for_the_disk(django_database, small_shop) -> None:
    """A migration's commit is asynchronous; the end of the run flushes everything before it."""
    seen = []

    def read_settings(connection) -> None:
        with connection.cursor() as cursor:
            cursor.execute("INSERT INTO shop_product (name) VALUES ('x')")
            cursor.execute(
                "SELECT current_setting('synchronous_commit'), pg_current_wal_insert_lsn()"
            )
            seen.extend(cursor.fetchone())

    small_shop.run("0003_read", read_settings)
    initialize()
    setting, wrote = seen
    assert setting == "off"
    assert django_database.value(
        "SELECT pg_current_wal_flush_lsn() >= %s::pg_lsn", wrote
    )


@pytest.mark.usefixtures("durable")
def test_a_commit_before_a_hook_waits(django_database, small_shop) -> None:
    """A commit that triggers `on_commit` hooks is on disk before the hooks run."""
    seen = []

    def register(connection) -> None:
        def hook() -> None:
            seen.append(django_database.value("SELECT pg_current_wal_flush_lsn()"))

        with connection.cursor() as cursor:
            cursor.execute("INSERT INTO shop_product (name) VALUES ('x')")
            cursor.execute("SELECT pg_current_wal_insert_lsn()")
            seen.extend(cursor.fetchone())
        transaction.on_commit(hook)

    small_shop.run("0003_hook", register)
    initialize()
    wrote, flushed = seen
    assert django_database.value("SELECT %s::pg_lsn >= %s::pg_lsn", flushed, wrote)


def test_the_isolation_level_of_the_settings(
    django_database, small_shop, log_in_as
) -> None:
    """A migration's transaction has the isolation level of DATABASES."""
    seen = []

    def read_level(connection) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SHOW transaction_isolation")
            seen.extend(cursor.fetchone())

    small_shop.run("0003_read", read_level)
    log_in_as(OPTIONS={"isolation_level": IsolationLevel.REPEATABLE_READ})
    initialize()
    assert seen == ["repeatable read"]


def test_an_error_before_the_first_statement(django_database, small_shop) -> None:
    """A migration that Django cannot render fails the run, and the run is closed."""
    small_shop.write("0003_lost", "migrations.RemoveField('nothing', 'name')")
    with pytest.raises(InitializationFailed, match=r"shop\.0003_lost: KeyError"):
        initialize()
    assert django_database.newest_run()["outcome"] == "failed"
    small_shop.remove("0003_lost")
    assert initialize().result == "ready"
