"""A migration's transaction on PostgreSQL."""

from __future__ import annotations

from contextlib import closing

import pytest
from django.db import DatabaseError, connection, connections, transaction
from psycopg import IsolationLevel

from django_safe_init import InitializationFailed, initialize
from django_safe_init.backends.postgresql.connect import create_direct_wrapper
from django_safe_init.backends.postgresql.recorder import PostgresRecorder
from django_safe_init.backends.postgresql.session import Session
from django_safe_init.core.build import Build
from tests.support import Database


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


@pytest.mark.parametrize(
    ("names", "seen"), [("", ["off", "off"]), ("absent", ["local", "local"])]
)
def test_synchronous_standbys(
    django_database, log_in_as, spare_server, small_shop, names, seen
) -> None:
    """With synchronous standbys, commits of a run keep the role's `synchronous_commit`."""
    shown: list[str] = []

    def show(connection) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SHOW synchronous_commit")
            shown.extend(cursor.fetchone())

    small_shop.run("0003_show", show)
    before = dict(spare_server.settings)
    spare_server.settings["synchronous_standby_names"] = names
    spare_server.restart("fast")
    database = Database("with_standbys", spare_server.params())
    try:
        with spare_server.connect(
            options="-c synchronous_commit=local", autocommit=True
        ) as admin:
            admin.execute("CREATE DATABASE with_standbys")
            admin.execute("ALTER ROLE postgres SET synchronous_commit = local")
        log_in_as(HOST=spare_server.host, PORT=spare_server.port, NAME="with_standbys")
        assert initialize().role == "leader"
        with closing(make_recorder()) as session:
            shown.append(session.rows("SHOW synchronous_commit")[0][0])
    finally:
        connections["default"].close()
        database.close()
        spare_server.settings = before
        spare_server.restart("fast")
        with spare_server.connect() as admin:
            admin.execute("ALTER ROLE postgres RESET synchronous_commit")
            admin.execute("DROP DATABASE with_standbys WITH (FORCE)")
    assert shown == seen


def make_recorder() -> Session:
    """Return the session of a recorder with an open run."""
    session = Session(create_direct_wrapper("default"), "safe_init test", 20)
    recorder = PostgresRecorder(session, Build(frozenset(), "x"), None)
    recorder.open_run("test")
    return session
