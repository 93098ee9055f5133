"""A run in the schemas of tenants, in this process: an error of one schema stays in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import pytest
from django.db import connections, transaction
from django.db.models.signals import pre_delete

from django_safe_init.management.commands.safe_migrate import Command as SafeMigrate
from tests.database.conftest import INITIAL, CommandResult, Shop
from tests.support import Database

NAMES = ["t0", "t1", "t2"]
LEFT_OPEN = "(RunPython 0002_leave) has left a transaction open"


@pytest.fixture
def tenants(
    django_database: Database,
    shop: Shop,
    settings: Any,
    monkeypatch: Any,
    log_in_as: Callable[..., None],
) -> Iterator[Database]:
    """Yield the database of a project with three tenants, which have the app `shop`."""
    command: Any = import_module("django_pgschemas.management.commands.migrateschema")
    monkeypatch.setattr(command, "Command", command.Command)  # this package replaces it
    shared = ["django_safe_init", "django_pgschemas"]
    settings.TENANTS = {
        "public": {"APPS": shared},
        **{name: {"APPS": ["tests.database.shop"]} for name in NAMES},
    }
    settings.SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"
    settings.DATABASE_ROUTERS = ["django_pgschemas.routers.TenantAppsRouter"]
    settings.INSTALLED_APPS = [*shared, "tests.database.shop"]
    # It would read the settings of tenants at each deletion of other tests.
    signals: Any = import_module("django_pgschemas.signals")
    pre_delete.disconnect(signals.tenant_delete_callback)
    shop.write("0001_initial", INITIAL)
    engine = connections.settings["default"]["ENGINE"]
    log_in_as(ENGINE="django_pgschemas.postgresql")
    yield django_database
    log_in_as(ENGINE=engine)


@pytest.fixture
def run(tenants: Database, command_line: Any) -> Callable[..., CommandResult]:
    """Return a function that runs `safe_migrate`."""
    return lambda *arguments: command_line(SafeMigrate, "safe_migrate", *arguments)


def schema_of(connection: Any) -> str:
    """Return the schema that a migration changes."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_schema()")
        return str(cursor.fetchone()[0])


def records(database: Database, schema: str) -> Counter[str]:
    """Return how often each migration is recorded in the schema."""
    rows = database.rows(f"SELECT name FROM {schema}.django_migrations")
    return Counter(row["name"] for row in rows)


def assert_complete(database: Database, shop: Shop, schemas: list[str]) -> None:
    """Assert that each schema has the record of each migration, once."""
    for schema in schemas:
        assert records(database, schema) == Counter(shop.names), schema


@pytest.mark.parametrize(
    ("end", "text"),
    [
        ("RAISE 'it gives up'", "it gives up"),
        ("PERFORM pg_terminate_backend(pg_backend_pid())", "terminating connection"),
        ("NULL", LEFT_OPEN),
    ],
)
def test_a_transaction_that_is_left_open(
    tenants: Database, shop: Shop, run: Any, end: str, text: str
) -> None:
    """The open transaction of a migration is undone, and the next schema begins without it."""
    assert run().code == 0

    def leave(connection: Any) -> None:
        if schema_of(connection) == "t1" and is_wrong:
            transaction.atomic(using="default").__enter__()
            connection.cursor().execute("INSERT INTO shop_product (name) VALUES ('x')")
            connection.cursor().execute(f"DO $$ BEGIN {end}; END $$")

    is_wrong = True
    shop.run("0002_leave", leave, atomic=False)
    failed = run()
    assert failed.code == 1
    assert "t1: shop.0002_leave: " in failed.stderr
    assert text in failed.stderr
    assert_complete(tenants, shop, ["t0", "t2"])
    assert tenants.value("SELECT count(*) FROM t1.shop_product") == 0
    is_wrong = False
    assert run().code == 0
    assert_complete(tenants, shop, NAMES)
