"""A table of migrations that is another program's: every command ends with one sentence."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import ProgrammingError

from django_safe_init import get_status, initialize
from django_safe_init.exceptions import UnsafeConnection
from django_safe_init.initialization.plan import readable_records
from django_safe_init.management.commands import (
    safe_init_status,
    safe_init_unlock,
    safe_init_validate,
    safe_migrate,
)

COMMANDS: dict[str, tuple[Any, ...]] = {
    "validate": (safe_init_validate, "safe_init_validate"),
    "validate as JSON": (safe_init_validate, "safe_init_validate", "--json"),
    "status": (safe_init_status, "safe_init_status"),
    "history": (safe_init_status, "safe_init_status", "--json", "--history", "3"),
    "plan": (safe_migrate, "safe_migrate", "--plan"),
    "check": (safe_migrate, "safe_migrate", "--check"),
    "wait": (safe_migrate, "safe_migrate", "--mode", "external", "--timeout", "3"),
    "migrate": (safe_migrate, "safe_migrate"),
}
BROKEN = {
    "a view": "CREATE VIEW django_migrations AS SELECT 1 AS id, 'x' AS app",
    "another table": "CREATE TABLE django_migrations (id integer)",
}


def break_migrations(database: Any, kind: str) -> None:
    database.rows("ALTER TABLE django_migrations RENAME TO dm")
    database.rows(BROKEN[kind])


@pytest.mark.parametrize("kind", BROKEN)
def test_postgresql(django_database, small_shop, command_line, kind) -> None:
    """Each command exits with 2."""
    initialize()
    break_migrations(django_database, kind)
    for command, (module, *arguments) in COMMANDS.items():
        ended = command_line(module.Command, *arguments)
        assert "Traceback" not in ended.stderr
        if command == "plan" and kind == "a view":
            continue  # Django's query reads `django_migrations.name` as a function
        assert ended.code == 2, (command, ended.stdout, ended.stderr)
        assert "cannot be read" in ended.stderr.splitlines()[-1]
    ended = command_line(safe_init_unlock.Command, "safe_init_unlock", "--noinput")
    assert ended.code == 0, ended.stderr
    with pytest.raises(UnsafeConnection, match="cannot be read"):
        get_status()


@pytest.mark.parametrize("kind", BROKEN)
def test_sqlite(lite, small_shop, command_line, kind) -> None:
    """No command shows a traceback on SQLite, and validation exits with 2."""
    initialize()
    break_migrations(lite, kind)
    for command, (module, *arguments) in COMMANDS.items():
        ended = command_line(module.Command, *arguments)
        assert "Traceback" not in ended.stderr
        if command != "plan":  # SQLite reads "name" as a text
            assert ended.code in (1, 2, 3), (command, ended.stdout, ended.stderr)
    ended = command_line(safe_init_validate.Command, "safe_init_validate")
    assert ended.code == 2
    assert "Rename or drop it." in ended.stderr


def test_another_error_of_a_plan(django_database, small_shop) -> None:
    """An error that is none of the records is raised as it is."""
    initialize()
    with pytest.raises(ProgrammingError, match="mine"), readable_records("default"):
        raise ProgrammingError("mine")
