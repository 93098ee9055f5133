"""The order of the schemas is a field, a function, or the schemas' names."""

from __future__ import annotations

import pytest

from tests.tenants.harness import TenantProject

SCHEMAS = ["a", "b", "c", "d"]
NOTE = """
def note(apps, schema_editor):
    hold(schema_editor, "at")

"""
FUNCTIONS = """
def backwards(names):
    assert names == sorted(names), names
    return reversed(names)

def some(names):
    return ["c", "unknown"]

def broken(names):
    raise ZeroDivisionError("no order")

def leaving(names):
    raise SystemExit(3)

def none(names):
    return None

number = 5
"""


def prepare(project: TenantProject) -> None:
    project.run("safe_migrate")
    project.add_tenants(*SCHEMAS)
    for name, size in zip(SCHEMAS, (2, 4, 3, 4), strict=True):
        project.database.rows(
            "UPDATE customers_customer SET size = %s WHERE schema_name = %s", size, name
        )
    (project.root / "mysite/order.py").write_text(FUNCTIONS)
    project.add_migration("0006_note", "migrations.RunPython(note)", body=NOTE)


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (None, "abcd"),
        ("-size", "bdca"),
        ("size", "acbd"),
        ("mysite.order.backwards", "dcba"),
        ("mysite.order.some", "cabd"),
    ],
)
def test_order(project: TenantProject, order: str | None, expected: str) -> None:
    """Schemas that the order does not name come last, by name."""
    prepare(project)
    project.use(safe_init={"TENANT_ORDER": order} if order else {})
    project.run("safe_migrate")
    notes = [text.removeprefix("at ") for _, text in project.notes()]
    assert "".join(name for name in notes if len(name) == 1) == expected


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        ("weight", "Cannot resolve keyword 'weight'"),
        ("mysite.order.missing", 'does not define a "missing" attribute'),
        ("mysite.nothing.order", "No module named 'mysite.nothing'"),
        ("mysite.order.number", "is no function"),
        ("mysite.order.none", "raised TypeError: 'NoneType' object is not iterable"),
        ("mysite.order.broken", "ZeroDivisionError: no order"),
        ("mysite.order.leaving", "raised SystemExit: 3"),
    ],
)
def test_wrong_order(project: TenantProject, order: str, reason: str) -> None:
    """A wrong value is one line that names the setting, and no schema is migrated."""
    prepare(project)
    project.use(safe_init={"TENANT_ORDER": order})
    failed = project.run("safe_migrate", code=2)
    [line] = [
        line for line in failed.stderr.splitlines() if line.startswith("CommandError")
    ]
    assert "SAFE_INIT['TENANT_ORDER']" in line
    assert reason in line
    assert not [text for _, text in project.notes() if len(text) == 4]
