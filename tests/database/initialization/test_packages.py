"""Runs in projects whose schema editor, receivers or `migrate` are not Django's."""

from __future__ import annotations

import pytest
from django.db import connection, connections
from django.db.backends.postgresql.features import DatabaseFeatures
from django.db.models.signals import pre_migrate

from django_safe_init import InitializationFailed, MissingPrivilege, initialize
from tests.database.conftest import INDEX, INITIAL, SALE

ZERO_DOWNTIME = "django_zero_downtime_migrations.backends.postgres"


# A schema editor that is never atomic


@pytest.fixture
def zero_downtime(django_database, log_in_as):
    log_in_as(ENGINE=ZERO_DOWNTIME)
    yield django_database
    log_in_as(**django_database.settings())


def test_zero_downtime_migrations(zero_downtime, shop) -> None:
    """A package that builds indexes concurrently in ordinary migrations migrates as it is meant."""
    shop.write("0001_initial", INITIAL)
    shop.write(
        "0002_index",
        "migrations.AddIndex('product', models.Index(fields=['name'], name='by_name'))",
    )
    shop.write("0003_sale", SALE)
    shop.run("0004_data", lambda connection: None)
    outcome = initialize()
    assert outcome.result == "ready"
    assert zero_downtime.applied_once() == [
        "shop.0001_initial",
        "shop.0002_index",
        "shop.0003_sale",
        "shop.0004_data",
    ]
    query = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'by_name'::regclass"
    assert zero_downtime.value(query) is True
    assert {step["outcome"] for step in zero_downtime.steps()} == {"done"}


def test_a_failure_of_zero_downtime_migrations(zero_downtime, shop) -> None:
    """A failed migration is not recorded, and its step stays unfinished, as it may be half done."""
    shop.write("0001_initial", INITIAL)

    def fail(connection) -> None:
        raise ValueError("not yet")

    shop.run("0002_data", fail)
    with pytest.raises(InitializationFailed, match="not yet"):
        initialize()
    assert zero_downtime.applied_once() == ["shop.0001_initial"]
    shop.callbacks["0002_data"] = lambda connection: None
    assert initialize().applied == ("shop.0002_data",)


def test_an_engine_without_transactional_ddl(
    django_database, shop, monkeypatch
) -> None:
    """If DDL cannot be rolled back, no migration is one transaction, as with plain Django."""
    monkeypatch.setattr(DatabaseFeatures, "can_rollback_ddl", False)
    inside = []
    shop.write("0001_initial", INITIAL)
    shop.write("0002_index", INDEX)  # it refuses to run inside a transaction
    shop.run("0003_data", lambda connection: inside.append(connection.in_atomic_block))
    assert initialize().result == "ready"
    assert inside == [True]  # Django wraps only RunPython
    assert len(django_database.applied_once()) == 3


# Receivers


@pytest.fixture
def without_schema(django_database):
    """Set a search path whose schema does not exist."""
    django_database.rows(
        f'ALTER DATABASE "{django_database.name}" SET search_path = app'
    )
    connections["default"].close()
    return django_database


def test_a_receiver_creates_the_schema(without_schema, small_shop, settings) -> None:
    """A receiver of `pre_migrate` may create the schema for all tables."""
    settings.SAFE_INIT = {**settings.SAFE_INIT, "RELEASE": "one"}
    calls = []

    def create(using: str, plan: list, **kwargs) -> None:
        calls.append(len(plan))
        with connections[using].cursor() as cursor:
            cursor.execute("CREATE SCHEMA IF NOT EXISTS app")

    pre_migrate.connect(create)
    try:
        assert initialize().result == "ready"
        assert initialize().role == "none"
    finally:
        pre_migrate.disconnect(create)
    assert set(calls) == {2}
    rows = without_schema.rows(
        "SELECT tablename FROM pg_tables WHERE schemaname = 'app' ORDER BY 1"
    )
    names = {row["tablename"] for row in rows}
    assert {"django_migrations", "django_safe_init_run", "shop_product"} <= names
    assert connection.connection is None or not connection.in_atomic_block


def test_no_receiver_creates_the_schema(without_schema, small_shop) -> None:
    """Without such a receiver the error names the role and the remedy."""
    with pytest.raises(MissingPrivilege, match="has no schema to create tables in"):
        initialize()
