"""The tenants' schemas that are up to date, as a query finds them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import Group

from django_safe_init.backends.postgresql.schema import ensure_schemas
from django_safe_init.backends.postgresql.schema_reader import SchemaReader
from django_safe_init.backends.postgresql.session import Session
from django_safe_init.backends.tenants import Tenant
from django_safe_init.core.build import Build
from django_safe_init.core.schemas import SCHEMA_TABLE, SchemaSummary
from tests.support import Database

FIRST, SECOND = "shop.0001_initial", "shop.0002_sale"
BUILD = Build(frozenset({FIRST, SECOND}), "x")


@pytest.fixture
def make_reader(
    open_session: Callable[..., Session], tenants: Any
) -> Callable[[], SchemaReader]:
    """Return a function that makes readers of a build with two migrations."""

    def make() -> SchemaReader:
        return SchemaReader(open_session(), tenants, BUILD, None)

    return make


@pytest.fixture
def reader(make_reader: Callable[[], SchemaReader]) -> SchemaReader:
    """Return a reader in a database with the table of the rows."""
    made = make_reader()
    ensure_schemas(made.session)
    return made


def remembered(database: Database) -> list[str]:
    """Return the schemas that have a row."""
    rows = database.rows(f"SELECT schema FROM {SCHEMA_TABLE} ORDER BY schema")
    return [row["schema"] for row in rows]


def names(reader: SchemaReader) -> list[str]:
    return sorted(each.schema for each in reader.all())


# The tenants


def test_static_tenants(reader: SchemaReader, tenants: Any) -> None:
    """A project without a model of tenants has the tenants that its settings name."""
    assert names(reader) == ["t1", "t2"]


def test_tenants_of_a_model(
    reader: SchemaReader, tenants: Any, django_database: Database
) -> None:
    """A project without tenants in its settings has the rows of its model."""
    django_database.rows("CREATE TABLE auth_group AS SELECT 1 AS id, 'row' AS name")
    tenants.static_tenants, tenants.tenants = (), Group.objects.all()
    assert names(reader) == ["row"]
    tenants.static_tenants = (Tenant("t1"), Tenant("row"))
    assert names(reader) == ["row", "t1"]


@pytest.mark.parametrize("query", [None, Group.objects.none()], ids=["none", "empty"])
def test_no_tenants(reader: SchemaReader, tenants: Any, query: Any) -> None:
    """Without a tenant no table is read, and no schema is behind."""
    tenants.static_tenants, tenants.tenants = (), query
    assert reader.all() == []
    assert reader.behind() == ()
    assert reader.summary(has_rows=True) == SchemaSummary(0)


# Rows


def test_rows_for_the_next_start(
    reader: SchemaReader,
    add_schema: Callable[..., None],
    django_database: Database,
) -> None:
    """Rows are written on request, and only for schemas that have all migrations."""
    add_schema("t1", FIRST)
    add_schema("t2", FIRST, SECOND)
    assert reader.behind() == ("t1",)
    assert remembered(django_database) == []
    assert reader.behind(remember=True) == ("t1",)
    assert remembered(django_database) == ["t2"]
    assert [each.schema for each in reader.stale()] == ["t1"]
    assert reader.behind(remember=True) == ("t1",)
    assert remembered(django_database) == ["t2"]


def test_a_role_that_may_not_write(
    reader: SchemaReader,
    make_reader: Callable[[], SchemaReader],
    add_schema: Callable[..., None],
    django_database: Database,
    new_role: Callable[..., str],
    log_in_as: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A role that may only read gets the same answer, and the cause is in the debug log."""
    add_schema("t1", FIRST)
    add_schema("t2", FIRST, SECOND)
    role = new_role("reader")
    for schema, table in [
        ("t1", "t1.django_migrations"),
        ("t2", "t2.django_migrations"),
        ("public", SCHEMA_TABLE),
    ]:
        django_database.rows(f"GRANT USAGE ON SCHEMA {schema} TO {role}")
        django_database.rows(f"GRANT SELECT ON {table} TO {role}")
    log_in_as(USER=role)
    with caplog.at_level(logging.DEBUG, "django_safe_init"):
        assert make_reader().behind(remember=True) == ("t1",)
    assert f"permission denied for table {SCHEMA_TABLE}" in caplog.text
    assert remembered(django_database) == []


# Records


def test_a_table_of_another_program(
    reader: SchemaReader, add_schema: Callable[..., None], django_database: Database
) -> None:
    """A table of records that lacks a column does not hide the records of other schemas."""
    add_schema("t1", FIRST, SECOND)
    add_schema("t2", FIRST, SECOND)
    django_database.rows("ALTER TABLE t2.django_migrations DROP name")
    assert set(reader.record_digests(["t1", "t2"])) == {"t1"}
    assert reader.behind() == ("t2",)
    assert reader.records("t2") == frozenset()


def test_dropped_schemas(
    reader: SchemaReader, add_schema: Callable[..., None], django_database: Database
) -> None:
    """Schemas that are dropped before their records are read have no records."""
    add_schema("t1", FIRST)
    assert set(reader.record_digests(["t1", "t2"])) == {"t1"}
    assert reader.record_digests(["t2", "t3"]) == {}


def test_a_locked_table(
    reader: SchemaReader, add_schema: Callable[..., None], raw_session: Any
) -> None:
    """A locked table of records does not hide the records of other schemas."""
    add_schema("t1", FIRST)
    add_schema("t2", FIRST)
    raw_session.execute("BEGIN; LOCK TABLE t1.django_migrations")
    assert set(reader.record_digests(["t1", "t2"])) == {"t2"}
    raw_session.execute("ROLLBACK")
    assert set(reader.record_digests(["t1", "t2"])) == {"t1", "t2"}
