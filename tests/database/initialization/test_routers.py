"""Database routers: a refused alias gets no tables except this package's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.db import connections

from django_safe_init import get_status, initialize
from django_safe_init.core.records import RUN_TABLE, STEP_TABLE
from tests.support import Database


class RefuseOther:
    """Refuse every migration on `other`."""

    def allow_migrate(self, db, app_label, **hints) -> bool | None:
        return False if db == "other" else None


class RefuseThisPackage:
    """Refuse this package's app on every alias."""

    def allow_migrate(self, db, app_label, **hints) -> bool | None:
        return False if app_label == "django_safe_init" else None


@pytest.fixture
def other(django_database, make_database, monkeypatch) -> Iterator[Database]:
    """Yield a second database with the alias `other`."""
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


def test_a_router_that_refuses_an_alias(small_shop, other, settings) -> None:
    """As in Django, all names are recorded without tables, and the database is ready."""
    settings.DATABASE_ROUTERS = [f"{__name__}.RefuseOther"]
    outcome = initialize("other")
    assert outcome.applied == ("shop.0001_initial", "shop.0002_sale")
    assert len(other.applied_once()) == 2
    assert tables(other) == {"django_migrations", RUN_TABLE, STEP_TABLE}
    assert get_status("other").ready
    assert initialize("other").role == "none"


def test_the_other_alias_of_such_a_router(
    django_database, small_shop, other, settings
) -> None:
    """A router that refuses one alias does not affect another one."""
    settings.DATABASE_ROUTERS = [f"{__name__}.RefuseOther"]
    initialize("default")
    assert {"shop_product", "shop_sale"} <= tables(django_database)


def test_a_router_that_refuses_this_package(
    django_database, small_shop, settings
) -> None:
    """A router cannot refuse the status tables, which no migration creates."""
    settings.DATABASE_ROUTERS = [f"{__name__}.RefuseThisPackage"]
    assert initialize().role == "leader"
    assert {RUN_TABLE, STEP_TABLE, "shop_product"} <= tables(django_database)
    assert initialize().role == "none"
