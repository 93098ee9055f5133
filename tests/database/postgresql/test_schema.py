"""Creation and upgrade of the status tables, and the required privileges."""

from __future__ import annotations

import pytest
from django.core.management import call_command
from django.db import connections
from django.db.models import Model

from django_safe_init import initialize
from django_safe_init.backends.base.schema import MODELS, TableSchema
from django_safe_init.backends.postgresql.schema import (
    ensure_journal,
    ensure_schemas,
    ensure_tables,
)
from django_safe_init.core.records import OPERATION_TABLE, RUN_TABLE, STEP_TABLE
from django_safe_init.core.schemas import SCHEMA_TABLE
from django_safe_init.exceptions import MissingPrivilege, UnsafeConnection
from django_safe_init.models import Run, Step, TenantSchema
from tests.support import wait_until


def column_names(model: type[Model]) -> set[str]:
    return {field.column for field in model._meta.local_concrete_fields}


def columns(database, table: str) -> set[str]:
    rows = database.rows(
        "SELECT column_name FROM information_schema.columns WHERE table_name = %s",
        table,
    )
    return {row["column_name"] for row in rows}


def test_creation(session, django_database) -> None:
    """`ensure_tables` creates both tables, and a second call changes nothing."""
    for _ in range(2):
        ensure_tables(session)
        for model in MODELS:
            table = model._meta.db_table
            assert columns(django_database, table) == column_names(model)


@pytest.mark.parametrize(
    ("table", "column"), [(RUN_TABLE, "error"), (STEP_TABLE, "detail")]
)
def test_upgrade(session, django_database, table, column) -> None:
    """`ensure_tables` adds a column of a newer version."""
    ensure_tables(session)
    django_database.rows(f"ALTER TABLE {table} DROP COLUMN {column}")
    ensure_tables(session)
    assert column in columns(django_database, table)


def test_a_newer_versions_column_stays(session, django_database) -> None:
    """`ensure_tables` keeps an unknown column of a newer version."""
    ensure_tables(session)
    django_database.rows(f"ALTER TABLE {RUN_TABLE} ADD COLUMN phase text")
    ensure_tables(session)
    assert "phase" in columns(django_database, RUN_TABLE)


def test_a_read_only_database(session) -> None:
    """A read-only database is refused with exit code 2."""
    session.rows("SET default_transaction_read_only = on")
    with pytest.raises(UnsafeConnection, match="is read-only at the moment") as caught:
        ensure_tables(session)
    assert caught.value.exit_code == 2


def test_two_projects_at_once(
    open_session, raw_session, in_background, django_database
):
    """Two leaders with different LOCK_KEYs can create the tables at the same time."""
    session = open_session()
    raw_session.execute("BEGIN")
    definitions = TableSchema(connections["default"]).columns(Run)
    body = ", ".join(f"{name} {kind}" for name, kind in definitions.items())
    raw_session.execute(f"CREATE TABLE {RUN_TABLE} ({body})")
    creating = in_background(lambda: ensure_tables(session))
    wait_until(lambda: django_database.backends("wait_event_type = 'Lock'"))
    raw_session.execute("COMMIT")
    creating.result()
    assert columns(django_database, STEP_TABLE) == column_names(Step)


def test_no_right_to_create(django_database, log_in_as, new_role, open_session) -> None:
    """A role without CREATE gets an error with its name and the GRANT that helps."""
    role = new_role("small shop")
    log_in_as(USER=role)
    session = open_session()
    with pytest.raises(MissingPrivilege) as caught:
        ensure_tables(session)
    text = str(caught.value)
    assert text.startswith(
        "The role small shop may not keep the status tables (permission"
    )
    grant = 'GRANT CREATE ON SCHEMA public TO "small shop";'
    assert text.endswith(f"As their owner or as an administrator: {grant}")
    assert caught.value.exit_code == 2
    django_database.rows(grant)
    ensure_tables(session)


def test_no_right_to_create_the_journal(
    django_database, log_in_as, new_role, session, open_session
) -> None:
    """A role that may only write gets the GRANT once a migration needs a journal."""
    role = new_role("writer")
    ensure_tables(session)
    rights = "SELECT, INSERT, UPDATE, DELETE"
    django_database.rows(f"GRANT {rights} ON {RUN_TABLE}, {STEP_TABLE} TO {role}")
    log_in_as(USER=role)
    other = open_session()
    with pytest.raises(
        MissingPrivilege, match='GRANT CREATE ON SCHEMA public TO "writer"'
    ):
        ensure_journal(other)
    ensure_journal(session)
    with pytest.raises(
        MissingPrivilege, match=f"GRANT {rights} ON {OPERATION_TABLE} TO"
    ):
        ensure_journal(other)
    django_database.rows(f"GRANT {rights} ON {OPERATION_TABLE} TO {role}")
    ensure_journal(other)
    log_in_as(USER="postgres")


def test_no_right_to_create_the_table_of_schemas(
    django_database, log_in_as, new_role, session, open_session
) -> None:
    """A role that may only write gets the GRANT once a project has tenants."""
    role = new_role("writer")
    ensure_tables(session)
    log_in_as(USER=role)
    other = open_session()
    with pytest.raises(MissingPrivilege) as caught:
        ensure_schemas(other)
    grant = 'GRANT CREATE ON SCHEMA public TO "writer";'
    assert str(caught.value).endswith(grant)
    django_database.rows(grant)
    ensure_schemas(other)
    assert columns(django_database, SCHEMA_TABLE) == column_names(TenantSchema)
    log_in_as(USER="postgres")


def test_no_right_to_write(
    django_database, log_in_as, new_role, open_session, session, small_shop
) -> None:
    """A role without write privileges gets an error with the GRANT that helps."""
    role = new_role("writer")
    django_database.rows(f"GRANT CREATE ON SCHEMA public TO {role}")
    ensure_tables(session)
    log_in_as(USER=role)
    with pytest.raises(MissingPrivilege) as caught:
        initialize()
    rights = "SELECT, INSERT, UPDATE, DELETE"
    grant = f'GRANT {rights} ON {RUN_TABLE}, {STEP_TABLE} TO "writer";'
    assert str(caught.value).endswith(grant)
    django_database.rows(grant)
    assert initialize().role == "leader"
    log_in_as(USER="postgres")


def test_no_right_to_upgrade(
    django_database, log_in_as, new_role, open_session, session
) -> None:
    """A role that does not own the tables cannot upgrade them."""
    role = new_role("writer")
    ensure_tables(session)
    django_database.rows(f"ALTER TABLE {RUN_TABLE} DROP COLUMN error")
    log_in_as(USER=role)
    with pytest.raises(MissingPrivilege, match="must be owner of table"):
        ensure_tables(open_session())


def test_no_schema(django_database, session) -> None:
    """Without a schema to create tables in, the error says so."""
    django_database.rows("DROP SCHEMA public")
    with pytest.raises(MissingPrivilege) as caught:
        ensure_tables(session)
    assert str(caught.value) == (
        "The role postgres has no schema to create tables in. "
        "Create one, or set the role's search_path."
    )


def test_search_path(django_database, log_in_as, small_shop) -> None:
    """The tables are created in the schema in which Django creates its own."""
    django_database.rows("CREATE SCHEMA app")
    log_in_as(OPTIONS={"options": "-c search_path=app"})
    assert initialize().role == "leader"
    assert initialize().role == "none"
    tables = django_database.rows(
        "SELECT tablename FROM pg_tables WHERE schemaname = 'app'"
    )
    assert {RUN_TABLE, STEP_TABLE, "django_migrations", "shop_product"} <= {
        row["tablename"] for row in tables
    }


def test_models(django_database, small_shop) -> None:
    """The models read the rows that the recorder wrote."""
    initialize()
    run = Run.objects.get()
    assert (run.outcome, run.leader.count(":")) == ("ready", 1)
    assert run.started_at <= run.heartbeat_at <= run.finished_at
    assert [str(step) for step in run.steps.order_by("position")] == [
        "shop.0001_initial",
        "shop.0002_sale",
    ]
    assert Step.objects.first().run == run


def test_no_missing_migration(django_database, capsys) -> None:
    """`makemigrations --check` finds no change in this package."""
    call_command("makemigrations", "--check", "--dry-run")
    assert "No changes detected" in capsys.readouterr().out
