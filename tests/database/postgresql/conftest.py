"""Fixtures: tenants with a schema each, as the backend sees them, and a run in these schemas."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from django.contrib.auth.models import Group
from django.db.models import QuerySet

from django_safe_init.backends.postgresql.recorder import PostgresRecorder
from django_safe_init.backends.postgresql.schema_session import PostgresSchemaWorker
from django_safe_init.backends.postgresql.schemas import PostgresSchemas
from django_safe_init.backends.tenants import Tenant
from tests.support import Database, make_context


@dataclass
class Tenants:
    """The part of a `Tenancy` that the backend reads, without a package of tenants.

    The table of Django's groups serves as the table of tenants.
    """

    static_tenants: tuple[Tenant, ...] = ()
    tenants: QuerySet[Group] | None = None
    alias: str = "default"
    shared_schema: str = "public"
    fields: tuple[str, ...] = ("name",)
    creates_schemas: bool = False
    hosts: QuerySet[Any] | None = None
    static_hosts: Mapping[str, str] = field(default_factory=dict)

    def search_path(self, schema: str) -> list[str]:
        return [schema, self.shared_schema]


@pytest.fixture
def tenants() -> Tenants:
    """Return a project whose settings name the tenants `t1` and `t2`."""
    return Tenants((Tenant("t1"), Tenant("t2")))


@pytest.fixture
def add_schema(django_database: Database) -> Callable[..., None]:
    """Return a function that creates a schema in which these migrations are recorded."""

    def add(schema: str, *recorded: str) -> None:
        django_database.rows(f"CREATE SCHEMA {schema}")
        django_database.rows(
            f"CREATE TABLE {schema}.django_migrations (id bigint GENERATED ALWAYS AS"
            " IDENTITY, app text, name text, applied timestamptz DEFAULT now())"
        )
        for migration in recorded:
            django_database.rows(
                f"INSERT INTO {schema}.django_migrations (app, name) VALUES (%s, %s)",
                *migration.split("."),
            )

    return add


@pytest.fixture
def schemas(leader: PostgresRecorder, tenants: Any) -> PostgresSchemas:
    """Return the tenants' schemas for the leader of a run."""
    leader.ensure_schemas()
    return PostgresSchemas(make_context(), leader.session.lock, tenants, leader.run_id)


@pytest.fixture
def worker(schemas: PostgresSchemas) -> Iterator[PostgresSchemaWorker]:
    """Yield the worker of the leader itself, inside its connections."""
    made = schemas.worker(forked=False)
    with made.connections():
        yield made
