"""What is true about a database, decided from one reading of it."""

from __future__ import annotations

import pytest

from django_safe_init.core.records import LeaderSnapshot
from django_safe_init.core.states import State
from django_safe_init.status import describe
from tests.unit.snapshots import OTHER, OWN, ended, run_row, snapshot

BEHIND = {"missing": ("shop.0002_more",)}
LED = {"leader_pid": 99}
OPEN = run_row(1)


@pytest.mark.parametrize(
    ("found", "ready"),
    [
        pytest.param(snapshot(), True, id="migrated by plain Django"),
        pytest.param(snapshot(**BEHIND), False, id="behind"),
        pytest.param(snapshot(ended(1, "ready")), True, id="initialized"),
        pytest.param(snapshot(ended(1, "ready"), **BEHIND), False, id="reversed since"),
        pytest.param(snapshot(ended(1, "partial")), True, id="by hand, complete"),
        pytest.param(snapshot(ended(1, "partial"), **BEHIND), False, id="by hand"),
        pytest.param(snapshot(OPEN, **LED), False, id="own run open"),
        pytest.param(snapshot(OPEN), False, id="leader died"),
        pytest.param(snapshot(ended(1, "failed")), False, id="own run failed"),
        pytest.param(snapshot(ended(1, "transient")), True, id="own run broke off"),
        pytest.param(
            snapshot(run_row(2, build=OTHER), **LED), True, id="a newer build migrates"
        ),
        pytest.param(
            snapshot(ended(2, "failed", build=OTHER)), True, id="a newer build failed"
        ),
        pytest.param(
            snapshot(
                ended(2, "ready", build=OTHER), ended(1, "failed"), superseded=True
            ),
            True,
            id="failed, then another build became ready",
        ),
        pytest.param(
            snapshot(run_row(2, build=OTHER), OPEN, superseded=True),
            False,
            id="own run open, another build became ready",
        ),
    ],
)
def test_ready(found, ready) -> None:
    """Ready is decided by this build's migrations and this build's newest run."""
    assert found.ready is ready
    assert (found.state is State.READY) is ready


@pytest.mark.parametrize(
    ("found", "initialized"),
    [
        (snapshot(ended(1, "ready")), True),
        (snapshot(ended(1, "partial")), False),
        (snapshot(), False),
        (snapshot(ended(1, "ready"), **BEHIND), False),
        (snapshot(ended(2, "partial"), ended(2, "partial"), finished=True), True),
    ],
)
def test_initialized(found, initialized) -> None:
    """The fast path wants a finished run of this very build, too."""
    assert found.initialized is initialized


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
            "the leader of run 1 (web-1:77) died in shop.0004_x",
        ),
        (
            snapshot(run_row(message=""), **BEHIND),
            "error",
            "the leader of run 1 (web-1:77) died in migrating",
        ),
        (snapshot(ended(1, "failed"), **BEHIND), "error", "ValueError: it broke"),
        (snapshot(ended(5, "failed", error=None)), "error", "run 5 failed"),
        (
            snapshot(ended(1, "failed"), **BEHIND, **LED),
            "error",
            "ValueError: it broke",
        ),
        (
            snapshot(ended(1, "interrupted"), **BEHIND),
            "uninitialized",
            "not initialized for this build",
        ),
        (
            snapshot(ended(1, "interrupted"), **BEHIND, **LED),
            "checking_schema",
            "a leader is starting",
        ),
        (snapshot(), "ready", "everything this build knows is done"),
    ],
)
def test_state_and_message(found, state, message) -> None:
    """Readers see the leader's state, corrected by the truth, in words."""
    status = describe("default", found)
    assert (status.state.value, status.message) == (state, message)
    assert status.error == (message if state == "error" else None)


@pytest.mark.parametrize(
    ("found", "progress"),
    [
        (snapshot(), 100),
        (snapshot(OPEN, **BEHIND, **LED), 21),
        (snapshot(ended(1, "failed"), **BEHIND), 0),
        (snapshot(**BEHIND), 0),
    ],
)
def test_progress(found, progress) -> None:
    """Progress is that of the open run; 100 when ready."""
    assert describe("default", found).progress == progress


def test_description() -> None:
    """A status says what is missing, which run is the newest, and whether anybody leads."""
    status = describe("default", snapshot(OPEN, **BEHIND, **LED))
    assert status.pending == ("shop.0002_more",)
    assert status.run == OPEN
    assert status.led
    assert not status.ready


@pytest.mark.parametrize(
    ("latest", "leader_pid", "at_work"),
    [
        (OPEN, 99, True),
        (OPEN, None, False),
        (None, 99, False),
        (ended(1, "ready"), 99, False),
        (run_row(build=OTHER), 99, False),
    ],
)
def test_at_work(latest, leader_pid, at_work) -> None:
    """A leader is at work for a build if it is alive and the newest run is that build's."""
    assert LeaderSnapshot(latest, leader_pid).at_work_for(OWN) is at_work
