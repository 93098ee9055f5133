"""The seam between backends and the rest of the package."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from django.db import OperationalError

import django_safe_init
from django_safe_init.backends.generic.backend import GenericBackend

PACKAGE = Path(django_safe_init.__file__).parent
#: Responsibilities that only one engine has: the server's sessions, the schemas
#: of tenants, and databases in memory.
ONLY_POSTGRESQL = {
    "activity",
    "answer_limit",
    "connect",
    "connection_checks",
    "connection_limits",
    "errors",
    "lock_keys",
    "lock_timeout",
    "losses",
    "pipeline",
    "project_connection",
    "stalled",
    "statement_progress",
    "table_locations",
    "lock_holders",
    "own_tables",
    "refused_rows",
    "remedies",
    "repair",
    "schema_guard",
    "schema_reader",
    "schema_session",
    "schemas",
}
ONLY_SQLITE = {"memory", "paths"}
#: The lock's module has the name of the kind of lock.
LOCKS = {"lock": "lock_file"}


def comparisons_of(name: str, source: str) -> Iterator[int]:
    """Yield the lines that compare an attribute of that name."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Compare, ast.Match)):
            inside = ast.walk(node)
            if any(isinstance(n, ast.Attribute) and n.attr == name for n in inside):
                yield node.lineno


def test_no_branch_on_the_engine() -> None:
    """The vendor is a key to look up a module; no code compares it."""
    found = {
        f"{path.relative_to(PACKAGE)}:{line}"
        for path in PACKAGE.rglob("*.py")
        for line in comparisons_of("vendor", path.read_text())
    }
    assert found == set()
    assert list(comparisons_of("vendor", "x = 1\nif c.vendor == 'a': pass")) == [2]


def test_the_same_file_for_the_same_responsibility() -> None:
    """Both engines divide their work into the same modules."""
    postgresql, sqlite = (
        {path.stem for path in (PACKAGE / "backends" / engine).glob("*.py")}
        for engine in ("postgresql", "sqlite3")
    )
    shared = {LOCKS.get(name, name) for name in postgresql - ONLY_POSTGRESQL}
    assert shared == sqlite - ONLY_SQLITE


def test_the_errors_of_another_engine() -> None:
    """Of an engine without a leader lock, no error is known to pass with time."""
    error = OperationalError("database is locked")
    for ask in ("is_busy", "is_locked", "is_connection_loss"):
        assert getattr(GenericBackend, ask)(error) is False
