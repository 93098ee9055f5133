"""The numbers of the tenants' schemas, and digests of names."""

from __future__ import annotations

import json

import pytest

from django_safe_init.core.records import clean_value
from django_safe_init.core.schemas import (
    BlockedTenants,
    FailedSchemas,
    FoundSchema,
    SchemaFailure,
    SchemaIdentity,
    SchemaProgress,
    SchemaSummary,
    TenantState,
    TenantStatus,
    digest,
)
from tests.unit.snapshots import run_row


def test_progress() -> None:
    """A schema is done, failed or pending, and behind unless it is done."""
    progress = SchemaProgress(1000, 412, 8)
    assert (progress.pending, progress.behind) == (580, 588)
    assert progress.as_json().items() >= {
        ("total", 1000), ("done", 412), ("failed", 8), ("pending", 580)
    }  # fmt: skip
    assert str(progress) == "412 of 1,000 schemas"


def test_progress_of_a_shrinking_database() -> None:
    """No number is negative if tenants are deleted during the run."""
    progress = SchemaProgress(1, 2, 3)
    assert (progress.pending, progress.behind) == (0, 0)
    assert SchemaSummary(1, ("acme", "beta")).done == 0
    assert SchemaSummary(3, ("acme",)).done == 2


def test_progress_in_a_row() -> None:
    """The text of a run's row is read again."""
    progress = SchemaProgress(3, 2, 1)
    assert SchemaProgress.from_json(json.dumps(progress)) == progress
    assert clean_value("schemas", json.dumps(progress)) == progress
    assert run_row(1)._replace(schemas=progress).as_json()["schemas"] == (
        progress.as_json()
    )


@pytest.mark.parametrize(
    "text",
    [
        *(None, "", "3", "[]", "[1, 2]", "[1, 2, 3, 4]", '["1", 2, 3]', "[1, 2, -3]"),
        *("[1, 2, 3.5]", '{"a": 1, "b": 2, "c": 3}', '"abc"', "{"),
    ],
)
def test_an_unknown_progress(text: object) -> None:
    """A text that another program has written is no progress."""
    assert SchemaProgress.from_json(text) is None


def test_summary() -> None:
    """A summary has the numbers, and names the first schemas that are behind."""
    assert SchemaSummary(2).sentence == ""
    failed = FailedSchemas(1, (SchemaFailure("acme", "no"),))
    summary = SchemaSummary(1000, ("acme",), failed)
    assert summary.progress == SchemaProgress(1000, 999, 1)
    assert summary.sentence == "1 of 1,000 tenants' schemas lacks migrations: acme"
    assert SchemaSummary(3, ("a", "b")).sentence.endswith(
        "schemas lack migrations: a, b"
    )


@pytest.mark.parametrize(
    ("exists", "can_create", "is_due"),
    [(True, False, True), (False, True, True), (False, False, False)],
)
def test_due(exists: bool, can_create: bool, is_due: bool) -> None:
    """A run migrates a schema that exists, or that it can create."""
    found = FoundSchema("acme", "", exists, SchemaIdentity(1, 1, 0, 0, 0), can_create)
    assert found.is_due is is_due


def test_status_of_a_tenant() -> None:
    """The status has the migrations that the schema lacks, if they were read."""
    status = TenantStatus("acme", TenantState.UP_TO_DATE)
    assert status.state.label == "up to date"
    assert status.as_json() == {
        "schema": "acme", "state": "up_to_date", "run": None, "seconds": None, "error": None
    }  # fmt: skip
    behind = status._replace(state=TenantState.BEHIND, pending=("shop.0002",))
    assert behind.as_json()["pending"] == ["shop.0002"]


def test_blocked_tenants() -> None:
    """A tenant that was created after the first poll never waits."""
    hosts = {"acme.example": "acme", "new.example": "new"}
    blocked = BlockedTenants(frozenset({"acme", "new"}), hosts)
    first = BlockedTenants(frozenset({"acme", "old"}))
    assert blocked.without_others(first) == BlockedTenants(
        frozenset({"acme"}), {"acme.example": "acme"}
    )


def test_digest() -> None:
    """The digest is of the set of names, in whatever order."""
    assert digest(["a", "b"]) == digest(["b", "a"]) != digest(["a"])
    assert len(digest([])) == 24
