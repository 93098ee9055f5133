"""The values that describe the schemas of tenants."""

from __future__ import annotations

import pytest

from django_safe_init.core.schemas import (
    BlockedTenants,
    FailedSchemas,
    SchemaFailure,
    SchemaProgress,
    SchemaSummary,
    TenantState,
    TenantStatus,
)


def test_numbers() -> None:
    """A schema is done, failed or pending; the last two are behind."""
    assert SchemaProgress(10, 6, 1).as_json() == {
        "total": 10,
        "done": 6,
        "failed": 1,
        "pending": 3,
        "behind": 4,
    }


@pytest.mark.parametrize(
    ("text", "progress"),
    [
        ("[10, 6, 1]", SchemaProgress(10, 6, 1)),
        (None, None),
        ("[]", None),
        ('"x"', None),
        ("[1, 2, -1]", None),
        ('[1, 2, "3"]', None),
        ("{", None),
    ],
)
def test_stored_numbers(text, progress) -> None:
    """A run's row may hold any text."""
    assert SchemaProgress.from_json(text) == progress


def test_summary() -> None:
    """A summary has the same numbers, and names the first schemas that are behind."""
    failed = FailedSchemas(1, (SchemaFailure("b", "ValueError: x"),))
    summary = SchemaSummary(1200, ("a", "b", "c", "d", "e", "f", "g"), failed)
    assert summary.progress == SchemaProgress(1200, 1193, 1)
    assert summary.sentence.startswith(
        "7 of 1,200 tenants' schemas lack migrations: a, b"
    )
    assert SchemaSummary(3, ("a",)).sentence == (
        "1 of 3 tenants' schemas lacks migrations: a"
    )
    assert SchemaSummary(3).sentence == ""


def test_status_of_a_tenant() -> None:
    """The object of a tenant has its pending migrations only if they were read."""
    status = TenantStatus("a", TenantState.UP_TO_DATE, 3, 0.5)
    assert status.as_json() == {
        "schema": "a",
        "state": "up_to_date",
        "run": 3,
        "seconds": 0.5,
        "error": None,
    }
    assert status._replace(pending=()).as_json()["pending"] == []
    assert status.state.label == "up to date"


def test_blocked_tenants() -> None:
    """A tenant that was not known before is not blocked, nor is its host."""
    known = BlockedTenants(frozenset("ab"), {"a.example": "a", "b.example": "b"})
    now = BlockedTenants(frozenset("bc"), {"b.example": "b", "c.example": "c"})
    assert now.without_others(known) == BlockedTenants(
        frozenset("b"), {"b.example": "b"}
    )
