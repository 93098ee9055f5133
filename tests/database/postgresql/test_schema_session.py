"""The session of a run in one tenant's schema."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from django.db import connections
from django.db.utils import (
    DataError,
    IntegrityError,
    OperationalError,
    ProgrammingError,
)

from django_safe_init.backends.base.run_session import ErrorKind
from django_safe_init.backends.base.schema_session import (
    ReceiverRows,
    Replay,
    SchemaChanged,
    SchemaResult,
)
from django_safe_init.backends.postgresql import schema_session as module
from django_safe_init.backends.postgresql.lock_keys import schema_key
from django_safe_init.backends.postgresql.recorder import PostgresRecorder
from django_safe_init.backends.postgresql.schema_session import (
    PostgresSchemaSession,
    PostgresSchemaWorker,
)
from django_safe_init.backends.postgresql.schemas import PostgresSchemas
from django_safe_init.core.records import OPERATION_TABLE
from django_safe_init.core.schemas import SCHEMA_TABLE
from django_safe_init.exceptions import LockLost
from example_project.embedded import EmbeddedServer
from tests.database.conftest import Background
from tests.support import Database, wait_until

KEY = schema_key("t1")
FIRST = ("shop", "0001_initial")
ROWS = ReceiverRows(
    (("shop", "product"),),
    (("shop", "product", "add_product", "Can add product"),),
)
CREATE_BOX = Replay("shop.0001_initial", ["CREATE TABLE box ()"], [FIRST])
CREATE_SHELF = Replay(
    "shop.0002_sale", ["CREATE TABLE shelf ()"], [("shop", "0002_sale")]
)


@pytest.fixture
def schema(
    schemas: PostgresSchemas,
    worker: PostgresSchemaWorker,
    add_schema: Callable[..., None],
) -> PostgresSchemaSession:
    """Return the session for the schema `t1`, whose key it holds, in a run that plans it."""
    add_schema("t1")
    add_schema("t2")
    schemas.plan([each for each in schemas.all() if each.schema == "t1"])
    return locked(worker, "t1")


def locked(worker: PostgresSchemaWorker, schema: str) -> PostgresSchemaSession:
    made = worker.open(schema, "")
    assert made.try_lock()
    return made


def recorded(database: Database, schema: str = "t1") -> list[str]:
    rows = database.rows(f"SELECT name FROM {schema}.django_migrations ORDER BY name")
    return [row["name"] for row in rows]


def row_of(database: Database, schema: str = "t1") -> dict[str, Any]:
    [row] = database.rows(f"SELECT * FROM {SCHEMA_TABLE} WHERE schema = %s", schema)
    return row


def terminate(database: Database, pid: int) -> None:
    database.rows("SELECT pg_terminate_backend(%s, 5000)", pid)


def backend_pid() -> int:
    """Return the server process of Django's connection, which the run has."""
    with connections["default"].cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return int(cursor.fetchone()[0])


# Replayed migrations


def test_replay(schema: PostgresSchemaSession, django_database: Database) -> None:
    """Migrations are executed in the schema and recorded there."""
    schema.replay([CREATE_BOX, CREATE_SHELF])
    assert recorded(django_database) == ["0001_initial", "0002_sale"]
    assert django_database.has_table("t1.box")
    assert django_database.has_table("t1.shelf")


def test_a_migration_that_another_program_has_recorded(
    schema: PostgresSchemaSession, django_database: Database
) -> None:
    """A migration that another program has recorded is not executed again."""
    django_database.rows(
        "INSERT INTO t1.django_migrations (app, name) VALUES (%s, %s)", *FIRST
    )
    with pytest.raises(
        SchemaChanged, match=r"shop\.0001_initial is recorded in 't1' meanwhile"
    ):
        schema.replay([CREATE_BOX])
    with pytest.raises(SchemaChanged, match="has recorded a migration in 't1'"):
        schema.replay([CREATE_BOX, CREATE_SHELF])
    assert recorded(django_database) == ["0001_initial"]
    assert not django_database.has_table("t1.box")
    schema.replay([CREATE_SHELF])
    assert django_database.has_table("t1.shelf")


def test_a_released_key(
    schema: PostgresSchemaSession, django_database: Database
) -> None:
    """If a migration's code has released the locks, the session takes them again."""
    with connections["default"].cursor() as cursor:
        cursor.execute("SELECT pg_advisory_unlock_all()")
    assert django_database.holders(KEY) == []
    schema.replay([CREATE_BOX])
    assert django_database.holders(KEY) == [backend_pid()]
    assert recorded(django_database) == ["0001_initial"]


def test_a_key_that_another_session_has_taken(
    schema: PostgresSchemaSession, django_database: Database, raw_session: Any
) -> None:
    """Without the key of the schema, nothing is executed in it."""
    with connections["default"].cursor() as cursor:
        cursor.execute("SELECT pg_advisory_unlock_all()")
    raw_session.execute("SELECT pg_advisory_lock(%s)", [KEY])
    with pytest.raises(
        LockLost,
        match="The key of the schema 't1' was released, and another session has taken it",
    ):
        schema.replay([CREATE_BOX])
    assert recorded(django_database) == []
    assert not django_database.has_table("t1.box")


def test_a_schema_that_was_replaced(
    schema: PostgresSchemaSession,
    add_schema: Callable[..., None],
    django_database: Database,
) -> None:
    """A migration is not recorded in another schema that has got the name."""
    django_database.rows("ALTER SCHEMA t1 RENAME TO old")
    add_schema("t1")
    with pytest.raises(SchemaChanged, match="'t1' was replaced or renamed meanwhile"):
        schema.replay([CREATE_BOX])
    assert recorded(django_database) == recorded(django_database, "old") == []
    assert not django_database.has_table("t1.box")


def test_sql_that_divides_by_zero(
    schema: PostgresSchemaSession, django_database: Database
) -> None:
    """A division by zero of the migration itself is Django's error, and is undone."""
    wrong = Replay("shop.0001_initial", [*CREATE_BOX.statements, "SELECT 1/0"], [FIRST])
    with pytest.raises(DataError, match="division by zero"):
        schema.replay([wrong])
    assert recorded(django_database) == []
    assert not django_database.has_table("t1.box")
    schema.replay([CREATE_BOX])
    assert recorded(django_database) == ["0001_initial"]


# Errors


def test_a_lost_connection(
    schema: PostgresSchemaSession, django_database: Database
) -> None:
    """A connection that the server has terminated is replaced for the next attempt."""
    terminate(django_database, backend_pid())
    with pytest.raises(OperationalError) as caught:
        schema.replay([CREATE_BOX])
    assert schema.classify(caught.value) is ErrorKind.LOST
    schema.unlock()
    schema.recover()
    assert schema.try_lock()
    schema.replay([CREATE_BOX])
    assert recorded(django_database) == ["0001_initial"]


def test_a_collision(
    schema: PostgresSchemaSession,
    django_database: Database,
    raw_session: Any,
    in_background: Callable[..., Background],
) -> None:
    """Another attempt follows if another session has created the same function."""
    function = "CREATE FUNCTION public.f() RETURNS integer LANGUAGE sql RETURN 1"
    create = Replay("shop.0001_initial", [function], [FIRST])
    raw_session.execute(f"BEGIN; {function}")

    def commit() -> None:
        wait_until(lambda: django_database.backends("wait_event_type = 'Lock'"))
        raw_session.execute("COMMIT")

    committing = in_background(commit)
    with pytest.raises(IntegrityError, match="pg_proc") as caught:
        schema.replay([create])
    committing.result()
    assert schema.classify(caught.value) is ErrorKind.TRANSIENT


def test_a_duplicate_row(
    schema: PostgresSchemaSession, django_database: Database
) -> None:
    """A duplicate row in a table of the project is an error of the migration."""
    django_database.rows("CREATE TABLE t1.box (id integer PRIMARY KEY)")
    insert = Replay("shop.0001_initial", ["INSERT INTO box VALUES (1), (1)"], [FIRST])
    with pytest.raises(IntegrityError, match="box_pkey") as caught:
        schema.replay([insert])
    assert schema.classify(caught.value) is ErrorKind.OTHER


# The status tables


def test_a_terminated_leader_session(
    schema: PostgresSchemaSession, django_database: Database
) -> None:
    """A worker whose leader session has ended learns that it does not lead any more."""
    terminate(django_database, schema.session.handshake_pid)
    with pytest.raises(LockLost, match="The leader session is gone: terminating"):
        schema.finish(SchemaResult("t1"))
    assert row_of(django_database)["state"] == "pending"


def test_unfinished_work_without_a_journal(
    schema: PostgresSchemaSession, django_database: Database
) -> None:
    """A migration is called finished also in a database that has had no journal."""
    schema.recorder.start_step("shop.0001_initial", backwards=False, atomic=False)
    assert set(schema.reader.interrupted()) == {"shop.0001_initial"}
    assert not django_database.has_table(OPERATION_TABLE)
    schema.forget_unfinished()
    assert schema.reader.interrupted() == {}
    row = row_of(django_database)
    assert (row["migration"], row["detail"]) == (None, None)


def test_unfinished_work_with_a_journal(
    schema: PostgresSchemaSession, leader: PostgresRecorder, django_database: Database
) -> None:
    """The journal of the schema is deleted, and the journals of other schemas stay."""
    leader.ensure_journal()
    for key in (schema.recorder.lock_key, "another"):
        django_database.rows(
            f"INSERT INTO {OPERATION_TABLE} (lock_key, migration, recorded, kind, position,"
            " part, state, fingerprint, detail, run_id, written_at)"
            " VALUES (%s, 'shop.0001_initial', false, 'operation', 1, 0, 'done', '', '{}',"
            " 1, now())",
            key,
        )
    assert [each.migration for each in schema.reader.journal()] == ["shop.0001_initial"]
    schema.forget_unfinished()
    rows = django_database.rows(f"SELECT lock_key FROM {OPERATION_TABLE}")
    assert [row["lock_key"] for row in rows] == ["another"]


class TestAnotherEncoding:
    """A database whose encoding has few characters."""

    @pytest.fixture
    def database(
        self,
        make_database: Callable[..., Database],
        chosen_server: EmbeddedServer,
    ) -> Database:
        template = f"latin_{os.getpid()}"
        with chosen_server.connect() as admin:
            admin.execute(
                f"CREATE DATABASE {template} TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'"
            )
        try:
            return make_database(template)
        finally:
            chosen_server.drop_database(template)

    def test_an_error(
        self, schema: PostgresSchemaSession, django_database: Database
    ) -> None:
        """An error that the encoding cannot hold is recorded with ASCII escapes."""
        schema.finish(SchemaResult("t1", "ValueError: 試", "shop.0001_initial"))
        row = row_of(django_database)
        assert row["state"] == "failed"
        assert row["error"] == r"ValueError: \u8a66"
        assert row["migration"] == "shop.0001_initial"


# The rows of Django's receivers


@pytest.fixture
def with_auth(settings: Any, small_shop: Any) -> None:
    """Install the apps of content types and permissions."""
    settings.INSTALLED_APPS = [
        *settings.INSTALLED_APPS,
        "django.contrib.contenttypes",
        "django.contrib.auth",
    ]


def create_auth_tables(database: Database) -> None:
    for table, columns in {
        "django_content_type": "app_label text, model text, UNIQUE (app_label, model)",
        "auth_permission": "name text, content_type_id integer, codename text",
    }.items():
        database.rows(
            f"CREATE TABLE t1.{table} (id integer GENERATED ALWAYS AS IDENTITY, {columns})"
        )


def permissions(database: Database) -> list[str]:
    rows = database.rows("SELECT codename FROM t1.auth_permission")
    return [row["codename"] for row in rows]


def test_rows_that_cannot_be_created(
    with_auth: None, schema: PostgresSchemaSession, django_database: Database
) -> None:
    """A missing table is Django's error, and the connection serves the next attempt."""
    create_auth_tables(django_database)
    django_database.rows("ALTER TABLE t1.auth_permission RENAME TO permission")
    with pytest.raises(ProgrammingError, match='"auth_permission" does not exist'):
        schema.create_rows(ROWS)
    assert not django_database.rows("SELECT FROM t1.django_content_type")
    django_database.rows("ALTER TABLE t1.permission RENAME TO auth_permission")
    schema.create_rows(ReceiverRows())
    assert permissions(django_database) == []
    schema.create_rows(ROWS)
    assert permissions(django_database) == ["add_product"]


def test_rows_on_postgresql_14(
    with_auth: None,
    schema: PostgresSchemaSession,
    django_database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server that cannot send its statistics at once is not asked to."""
    create_auth_tables(django_database)
    django_database.rows("ALTER FUNCTION pg_stat_force_next_flush() RENAME TO absent")
    with pytest.raises(ProgrammingError, match="pg_stat_force_next_flush"):
        schema.create_rows(ROWS)
    monkeypatch.setattr(psycopg.ConnectionInfo, "server_version", 140000)
    schema.create_rows(ROWS)
    assert permissions(django_database) == ["add_product"]


# The connections of a worker


def test_one_transaction_for_all_schemas(
    schema: PostgresSchemaSession, worker: PostgresSchemaWorker
) -> None:
    """All schemas share a transaction, so the schema editor of the connection changes once."""
    first = schema.transaction(worker.connection)
    schema.unlock()
    editor = worker.connection.SchemaEditorClass
    other = locked(worker, "t2")
    assert other.transaction(worker.connection) is first
    assert worker.connection.SchemaEditorClass is editor
    first.begin("shop.0001_initial", set(), lambda names: None, runs_custom_code=True)
    with worker.connection.cursor() as cursor:
        cursor.execute("SHOW lock_timeout")
        assert cursor.fetchone() == ("5s",)
    first.close()
    assert first.has_ended()


def leave_transaction(worker: PostgresSchemaWorker) -> None:
    worker.connection.set_autocommit(False)


def leave_raw_transaction(worker: PostgresSchemaWorker) -> None:
    worker.connection.connection.execute("BEGIN")


def leave_setting(worker: PostgresSchemaWorker) -> None:
    worker.connection.connection.execute("SET work_mem = '8MB'")


@pytest.mark.parametrize(
    "leave", [leave_transaction, leave_raw_transaction, leave_setting]
)
def test_code_that_changes_the_connection(
    schema: PostgresSchemaSession,
    worker: PostgresSchemaWorker,
    django_database: Database,
    leave: Callable[[PostgresSchemaWorker], None],
) -> None:
    """After code that has left a transaction or a setting, the next schema has a new connection."""
    before = backend_pid()
    schema.ran_code = True
    leave(worker)
    schema.unlock()
    wait_until(lambda: not django_database.holders(KEY))
    locked(worker, "t2")
    assert backend_pid() != before
    assert worker.connection.get_autocommit()


def test_code_that_changes_nothing(
    schema: PostgresSchemaSession,
    worker: PostgresSchemaWorker,
    django_database: Database,
) -> None:
    """After code that has left the session as it was, the next schema has the same connection."""
    before = backend_pid()
    schema.ran_code = True
    schema.unlock()
    assert django_database.holders(KEY) == []
    locked(worker, "t2")
    assert backend_pid() == before


def test_code_that_ends_the_connection(
    schema: PostgresSchemaSession,
    worker: PostgresSchemaWorker,
    django_database: Database,
) -> None:
    """After code whose connection was terminated, the next schema has a new connection."""
    schema.ran_code = True
    terminate(django_database, backend_pid())
    schema.unlock()
    locked(worker, "t2").replay([CREATE_BOX])
    assert recorded(django_database, "t2") == ["0001_initial"]
    assert not worker.fenced.lost


def test_a_new_connection_after_many_schemas(
    schema: PostgresSchemaSession,
    worker: PostgresSchemaWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The connection is replaced after a number of schemas, for the memory of the server."""
    monkeypatch.setattr(module, "_SCHEMAS_PER_CONNECTION", 3)
    pids = [backend_pid()]
    schema.unlock()
    for name in ("t2", "t1", "t2", "t1"):
        session = locked(worker, name)
        pids.append(backend_pid())
        session.unlock()
    assert pids[0] == pids[1]
    assert pids[2] == pids[3] == pids[4] != pids[0]


def test_the_end_of_a_worker(schemas: PostgresSchemas) -> None:
    """A worker closes the session that it has opened, and leaves the session of its leader."""
    own = schemas.worker(forked=False)
    forked = schemas.worker(forked=True)
    forked.lock.verify()
    own.close()
    forked.close()
    assert forked.session.raw.closed
    schemas.session.lock.verify()
