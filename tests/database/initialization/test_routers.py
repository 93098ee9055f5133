"""Routers: what they forbid on an alias is not done there, and our tables are there anyway."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.db import connections

from django_safe_init import get_status, initialize
from django_safe_init.core.records import RUN_TABLE, STEP_TABLE
from tests.support import Database


class Nothing:
    """Forbids every migration on `other`."""

    def allow_migrate(self, db, app_label, **hints) -> bool | None:
        return False if db == "other" else None


class NotOurs:
    """Forbids our app everywhere."""

    def allow_migrate(self, db, app_label, **hints) -> bool | None:
        return False if app_label == "django_safe_init" else None


@pytest.fixture
def other(django_database, make_database, monkeypatch) -> Iterator[Database]:
    """A second database, by the alias `other`."""
    made = make_database()
    configured = connections.configure_settings(
        {"default": {}, "other": made.settings()}
    )
    monkeypatch.setitem(connections.settings, "other", configured["other"])
    yield made
    connections["other"].close()
    del connections["other"]


def tables(database: Database) -> set[str]:
    rows = database.rows("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    return {row["tablename"] for row in rows}


def test_a_router_that_forbids_everything(small_shop, other, settings) -> None:
    """As with Django, all names are recorded and no table is made; the database is ready."""
    settings.DATABASE_ROUTERS = [f"{__name__}.Nothing"]
    outcome = initialize("other")
    assert outcome.applied == ("shop.0001_initial", "shop.0002_sale")
    assert len(other.applied_once()) == 2
    assert tables(other) == {"django_migrations", RUN_TABLE, STEP_TABLE}
    assert get_status("other").ready
    assert initialize("other").role == "none"


def test_the_other_databases_of_such_a_router(
    django_database, small_shop, other, settings
) -> None:
    """What it forbids on one alias is done on another."""
    settings.DATABASE_ROUTERS = [f"{__name__}.Nothing"]
    initialize("default")
    assert {"shop_product", "shop_sale"} <= tables(django_database)


def test_a_router_that_forbids_our_tables(
    django_database, small_shop, settings
) -> None:
    """Our tables are no models of a migration: a router has no say in them."""
    settings.DATABASE_ROUTERS = [f"{__name__}.NotOurs"]
    assert initialize().role == "leader"
    assert {RUN_TABLE, STEP_TABLE, "shop_product"} <= tables(django_database)
    assert initialize().role == "none"
