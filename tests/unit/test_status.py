"""The status that `describe` derives from a snapshot."""

from __future__ import annotations

import pytest

from django_safe_init.backends.base.reader import BaseReader
from django_safe_init.core.records import ConnectionEnded, TablesLocked
from django_safe_init.core.schemas import (
    BlockedTenants,
    FailedSchemas,
    SchemaFailure,
    SchemaProgress,
    SchemaSummary,
    TenantState,
    TenantStatus,
)
from django_safe_init.exceptions import (
    ConfigurationError,
    DatabaseUnreachable,
    WaitTimeout,
)
from django_safe_init.status import (
    StatusDetail,
    describe,
    read_schemas,
    read_tenant,
    with_blocked,
)
from tests.unit.snapshots import ended_run, run_row, snapshot

BEHIND = {"missing": ("shop.0002_more",)}
LED = {"leader_pid": 99}
OPEN = run_row(1)


@pytest.mark.parametrize(
    ("found", "state", "message"),
    [
        (snapshot(**BEHIND), "uninitialized", "not initialized for this build"),
        (snapshot(**BEHIND, **LED), "checking_schema", "a leader is starting"),
        (
            snapshot(OPEN, **BEHIND, **LED),
            "migrating",
            "migrating 4/14 shop.0004_x",
        ),
        (
            snapshot(run_row(total=0, message="reading migrations"), **BEHIND, **LED),
            "migrating",
            "migrating reading migrations",
        ),
        (
            snapshot(OPEN, **BEHIND),
            "error",
            "the leader web-1:77 of run 1 died in shop.0004_x",
        ),
        (
            snapshot(run_row(message=""), **BEHIND),
            "error",
            "the leader web-1:77 of run 1 died in migrating",
        ),
        (snapshot(ended_run(1, "failed"), **BEHIND), "error", "ValueError: it broke"),
        (snapshot(ended_run(5, "failed", error=None)), "error", "run 5 failed"),
        (
            snapshot(ended_run(1, "failed"), **BEHIND, **LED),
            "error",
            "ValueError: it broke",
        ),
        (
            snapshot(ended_run(1, "interrupted"), **BEHIND),
            "uninitialized",
            "not initialized for this build",
        ),
        (
            snapshot(ended_run(1, "interrupted"), **BEHIND, **LED),
            "checking_schema",
            "a leader is starting",
        ),
        (snapshot(), "ready", "everything this build knows is done"),
    ],
)
def test_state_and_message(found, state, message) -> None:
    """The state is the leader's state, corrected by the lock and by this build's migrations."""
    status = describe("default", found)
    assert (status.state.value, status.message) == (state, message)
    assert status.error == (message if state == "error" else None)


@pytest.mark.parametrize(
    ("found", "progress"),
    [
        (snapshot(), 100),
        (snapshot(OPEN, **BEHIND, **LED), 21),
        (snapshot(ended_run(1, "failed"), **BEHIND), 0),
        (snapshot(**BEHIND), 0),
    ],
)
def test_progress(found, progress) -> None:
    """The progress is the open run's, and 100 if the database is ready."""
    assert describe("default", found).progress == progress


def test_description() -> None:
    """A status has the pending migrations, the newest run, and whether a leader exists."""
    status = describe("default", snapshot(OPEN, **BEHIND, **LED))
    assert status.pending == ("shop.0002_more",)
    assert status.run == OPEN
    assert status.led
    assert not status.ready


# Schemas of tenants

PROGRESS = SchemaProgress(1000, 412, 2)
IN_SCHEMAS = run_row(1, schemas=PROGRESS, message="412 of 1,000 schemas updated")
FAILURES = FailedSchemas(1, (SchemaFailure("t1", "ValueError: x"),))
BEHIND_TENANTS = SchemaSummary(3, ("t1", "t2"), FAILURES)
SHARED = {"shared_suffices": True, "schemas": BEHIND_TENANTS}
SENTENCE = "2 of 3 tenants' schemas lack migrations: t1, t2"


@pytest.mark.parametrize(
    ("found", "state", "message"),
    [
        (
            snapshot(IN_SCHEMAS, **LED),
            "migrating",
            "migrating 412 of 1,000 schemas updated",
        ),
        (
            snapshot(ended_run(1, "partial"), schemas=BEHIND_TENANTS),
            "uninitialized",
            f"not initialized for this build: {SENTENCE}",
        ),
        (
            snapshot(ended_run(1, "failed"), schemas=BEHIND_TENANTS),
            "error",
            "ValueError: it broke",
        ),
        (
            snapshot(ended_run(1, "failed", schemas=PROGRESS), **SHARED),
            "ready",
            f"the shared schema is ready; {SENTENCE}",
        ),
        (
            snapshot(IN_SCHEMAS, **SHARED, **LED),
            "ready",
            f"the shared schema is ready; {SENTENCE}",
        ),
        (
            snapshot(ended_run(1, "ready"), schemas=SchemaSummary(3)),
            "ready",
            "everything this build knows is done",
        ),
    ],
)
def test_state_with_tenants(found, state, message) -> None:
    """A build waits for all tenants, or by policy for none of them."""
    status = describe("default", found)
    assert (status.state.value, status.message) == (state, message)


@pytest.mark.parametrize(
    ("found", "schemas", "failures"),
    [
        (snapshot(), None, None),
        (snapshot(run_row(1), **LED), None, None),
        (snapshot(IN_SCHEMAS, failed=FAILURES, **LED), PROGRESS, ["t1"]),
        (snapshot(ended_run(1, "ready", schemas=PROGRESS)), None, None),
        (
            snapshot(ended_run(1, "failed"), schemas=BEHIND_TENANTS),
            SchemaProgress(3, 1, 1),
            ["t1"],
        ),
        (snapshot(IN_SCHEMAS, **SHARED, **LED), SchemaProgress(3, 1, 1), ["t1"]),
    ],
)
def test_numbers_of_tenants(found, schemas, failures) -> None:
    """The numbers come from the open run, or else from the schemas themselves."""
    status = describe("default", found)
    assert status.schemas == schemas
    shown = status.as_json()["schemas"]
    assert (shown and [each["schema"] for each in shown["failures"]]) == failures
    assert (shown and shown["done"]) == (schemas and schemas.done)


@pytest.mark.parametrize(
    ("found", "state", "progress"),
    [
        (snapshot(IN_SCHEMAS, **SHARED, **LED), "migrating", 21),
        (snapshot(ended_run(1, "failed", schemas=PROGRESS), **SHARED), "error", 0),
        (snapshot(ended_run(1, "partial"), **SHARED), "uninitialized", 0),
        (snapshot(ended_run(1, "ready"), shared_suffices=True), "ready", 100),
    ],
)
def test_status_for_a_tenant(found, state, progress) -> None:
    """A tenant whose schema is behind sees the state of the work in the schemas."""
    status = describe("default", found)
    assert status.ready
    assert status.complete is (state == "ready")
    assert status.for_tenant.state.value == state
    assert status.for_tenant.progress == progress


class Reader(BaseReader):
    """A reader of two tenants."""

    error: Exception | None = None

    def tenants(self) -> list[TenantStatus]:
        if self.error is not None:
            raise self.error
        return [TenantStatus(name, TenantState.BEHIND) for name in ("t1", "t2")]

    def lacking(self, schema: str) -> tuple[str, ...]:
        return (f"{schema}.0001",)

    def blocked(self, behind):
        if self.error is not None:
            raise self.error
        return BlockedTenants(frozenset(behind))


Reader.__abstractmethods__ = frozenset()


def test_one_tenant() -> None:
    """One tenant is read with the migrations that it lacks."""
    assert read_tenant("default", Reader(), "t2").pending == ("t2.0001",)
    with pytest.raises(ConfigurationError, match="'t3': the tenants are t1, t2"):
        read_tenant("default", Reader(), "t3")


def test_no_tenants() -> None:
    """An engine without schemas knows no tenants."""

    class Without(BaseReader): ...

    Without.__abstractmethods__ = frozenset()
    reader = Without()
    assert read_schemas("default", reader) is None
    assert reader.lacking("t1") == ()
    assert reader.blocked(["t1"]) == BlockedTenants()
    with pytest.raises(ConfigurationError, match="it has no tenants"):
        read_tenant("default", reader, "t1")


@pytest.mark.parametrize(
    ("error", "raised"),
    [(TablesLocked("x"), WaitTimeout), (ConnectionEnded("x"), DatabaseUnreachable)],
)
def test_unreadable_tenants(error, raised) -> None:
    """Locked tables and a lost connection are errors with an exit code."""
    reader = Reader()
    reader.error = error
    with pytest.raises(raised):
        read_tenant("default", reader, "t1")


def test_blocked_tenants() -> None:
    """Only a ready database with schemas that are behind has blocked tenants."""
    behind = StatusDetail(describe("default", snapshot(IN_SCHEMAS, **SHARED, **LED)))
    reader = Reader()
    assert with_blocked(behind, reader).blocked.schemas == {"t1", "t2"}
    for found in (snapshot(), snapshot(ended_run(1, "failed"), schemas=BEHIND_TENANTS)):
        detail = StatusDetail(describe("default", found))
        assert with_blocked(detail, reader) is detail
    reader.error = ConnectionEnded("x")
    with pytest.raises(DatabaseUnreachable):
        with_blocked(behind, reader)
