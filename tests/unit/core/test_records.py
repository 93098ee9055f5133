"""What is true about a database, decided from one reading of it."""

from __future__ import annotations

import pytest

from django_safe_init.core.records import LeaderSnapshot
from django_safe_init.core.states import State
from django_safe_init.status import describe
from tests.unit.snapshots import OTHER, OWN, ended, reading, run_row

BEHIND = {"missing": ("shop.0002_more",)}
LED = {"leader_pid": 99}
OPEN = run_row(1)


@pytest.mark.parametrize(
    ("found", "ready"),
    [
        pytest.param(reading(), True, id="migrated by plain Django"),
        pytest.param(reading(**BEHIND), False, id="behind"),
        pytest.param(reading(ended(1, "ready")), True, id="initialized"),
        pytest.param(reading(ended(1, "ready"), **BEHIND), False, id="reversed since"),
        pytest.param(reading(ended(1, "partial")), True, id="by hand, complete"),
        pytest.param(reading(ended(1, "partial"), **BEHIND), False, id="by hand"),
        pytest.param(reading(OPEN, **LED), False, id="own run open"),
        pytest.param(reading(OPEN), False, id="leader died"),
        pytest.param(reading(ended(1, "failed")), False, id="own run failed"),
        pytest.param(reading(ended(1, "transient")), True, id="own run broke off"),
        pytest.param(
            reading(run_row(2, build=OTHER), **LED), True, id="a newer build migrates"
        ),
        pytest.param(
            reading(ended(2, "failed", build=OTHER)), True, id="a newer build failed"
        ),
        pytest.param(
            reading(
                ended(2, "ready", build=OTHER), ended(1, "failed"), superseded=True
            ),
            True,
            id="failed, then another build became ready",
        ),
        pytest.param(
            reading(run_row(2, build=OTHER), OPEN, superseded=True),
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
        (reading(ended(1, "ready")), True),
        (reading(ended(1, "partial")), False),
        (reading(), False),
        (reading(ended(1, "ready"), **BEHIND), False),
        (reading(ended(2, "partial"), ended(2, "partial"), finished=True), True),
    ],
)
def test_initialized(found, initialized) -> None:
    """The fast path wants a finished run of this very build, too."""
    assert found.initialized is initialized


@pytest.mark.parametrize(
    ("found", "state", "message"),
    [
        (reading(**BEHIND), "uninitialized", "not initialized for this build"),
        (reading(**BEHIND, **LED), "checking_schema", "a leader is starting"),
        (
            reading(OPEN, **BEHIND, **LED),
            "migrating",
            "migrating 4/14 shop.0004_x",
        ),
        (
            reading(run_row(total=0, message="reading migrations"), **BEHIND, **LED),
            "migrating",
            "migrating reading migrations",
        ),
        (
            reading(OPEN, **BEHIND),
            "error",
            "the leader of run 1 (web-1:77) died in shop.0004_x",
        ),
        (
            reading(run_row(message=""), **BEHIND),
            "error",
            "the leader of run 1 (web-1:77) died in migrating",
        ),
        (reading(ended(1, "failed"), **BEHIND), "error", "ValueError: it broke"),
        (reading(ended(5, "failed", error=None)), "error", "run 5 failed"),
        (
            reading(ended(1, "failed"), **BEHIND, **LED),
            "error",
            "ValueError: it broke",
        ),
        (
            reading(ended(1, "interrupted"), **BEHIND),
            "uninitialized",
            "not initialized for this build",
        ),
        (
            reading(ended(1, "interrupted"), **BEHIND, **LED),
            "checking_schema",
            "a leader is starting",
        ),
        (reading(), "ready", "everything this build knows is done"),
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
        (reading(), 100),
        (reading(OPEN, **BEHIND, **LED), 21),
        (reading(ended(1, "failed"), **BEHIND), 0),
        (reading(**BEHIND), 0),
    ],
)
def test_progress(found, progress) -> None:
    """Progress is that of the open run; 100 when ready."""
    assert describe("default", found).progress == progress


def test_description() -> None:
    """A status says what is missing, which run is the newest, and whether anybody leads."""
    status = describe("default", reading(OPEN, **BEHIND, **LED))
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
