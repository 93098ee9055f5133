"""Projects that name Django's table of applied migrations otherwise."""

from __future__ import annotations

import pytest
from django.db import connections
from django.db.migrations.recorder import MigrationRecorder

from django_safe_init import get_status, initialize
from django_safe_init.management.commands.safe_init_validate import Command

NAMES = ["applied_migrations", "Odd name", "django_migrations_2"]


@pytest.fixture
def rename(monkeypatch):
    """Return a function that renames Django's table."""

    def change(name: str) -> None:
        # A new class, because fields remember the name of their table.
        monkeypatch.setattr(MigrationRecorder, "_migration_class", None)
        MigrationRecorder.Migration._meta.db_table = name

    return change


def initialize_twice(shop, command_line) -> None:
    """Initialize, validate, and add a migration and a step to the build."""
    assert get_status().state == "uninitialized"
    assert initialize().role == "leader"
    assert initialize().role == "none"
    assert get_status().ready
    assert command_line(Command, "safe_init_validate", "--json").code == 0
    shop.run("0003_data", lambda connection: None, atomic=False)
    assert get_status().pending == ("shop.0003_data",)
    assert initialize().applied == ("shop.0003_data",)
    assert get_status().ready


@pytest.mark.parametrize("name", NAMES)
def test_on_postgresql(django_database, small_shop, rename, command_line, name) -> None:
    """On PostgreSQL every query uses the project's name for the table."""
    rename(name)
    initialize_twice(small_shop, command_line)
    assert django_database.has_table(f'"{name}"')
    assert not django_database.has_table("django_migrations")


@pytest.mark.parametrize("name", ['app"."django_migrations', '"app"."Other"'])
def test_in_a_schema(
    django_database, small_shop, rename, command_line, monkeypatch, name
) -> None:
    """On PostgreSQL the name may contain a schema, as projects write it."""
    django_database.rows("CREATE SCHEMA app")
    quoted = connections["default"].ops.quote_name(name)
    # Django does not find a table with a schema in its name, so the project helps it.
    monkeypatch.setattr(MigrationRecorder, "has_table", lambda self: True)
    django_database.rows(
        f"CREATE TABLE {quoted} (id serial, app text, name text, applied timestamptz)"
    )
    rename(name)
    initialize_twice(small_shop, command_line)
    rows = django_database.rows(f"SELECT app FROM {quoted}")
    assert {row["app"] for row in rows} == {"shop"}


@pytest.mark.parametrize("name", NAMES)
def test_on_sqlite(lite, small_shop, rename, command_line, name) -> None:
    """On SQLite every query uses the project's name for the table."""
    rename(name)
    initialize_twice(small_shop, command_line)
    assert lite.has_table(name)
    assert not lite.has_table("django_migrations")
