"""The status that `describe` derives from a snapshot."""

from __future__ import annotations

import pytest

from django_safe_init.status import describe
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
