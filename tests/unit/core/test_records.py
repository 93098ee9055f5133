"""Decisions that depend on one snapshot of a database."""

from __future__ import annotations

import pytest

from django_safe_init.core import records
from django_safe_init.core.records import LeaderSnapshot
from django_safe_init.core.states import State
from tests.unit.snapshots import OTHER, OWN, ended_run, run_row, snapshot

BEHIND = {"missing": ("shop.0002_more",)}
LED = {"leader_pid": 99}
OPEN = run_row(1)


@pytest.mark.parametrize(
    ("found", "ready"),
    [
        pytest.param(snapshot(), True, id="migrated by plain Django"),
        pytest.param(snapshot(**BEHIND), False, id="behind"),
        pytest.param(snapshot(ended_run(1, "ready")), True, id="initialized"),
        pytest.param(
            snapshot(ended_run(1, "ready"), **BEHIND), False, id="reversed since"
        ),
        pytest.param(snapshot(ended_run(1, "partial")), True, id="by hand, complete"),
        pytest.param(snapshot(ended_run(1, "partial"), **BEHIND), False, id="by hand"),
        pytest.param(snapshot(OPEN, **LED), False, id="own run open"),
        pytest.param(snapshot(OPEN), False, id="leader died"),
        pytest.param(snapshot(ended_run(1, "failed")), False, id="own run failed"),
        pytest.param(snapshot(ended_run(1, "transient")), True, id="own run broke off"),
        pytest.param(
            snapshot(run_row(2, build=OTHER), **LED), True, id="a newer build migrates"
        ),
        pytest.param(
            snapshot(ended_run(2, "failed", build=OTHER)),
            True,
            id="a newer build failed",
        ),
        pytest.param(
            snapshot(
                ended_run(2, "ready", build=OTHER),
                ended_run(1, "failed"),
                superseded=True,
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
    """This build's migrations and newest run decide whether a database is ready."""
    assert found.ready is ready
    assert (found.state is State.READY) is ready


@pytest.mark.parametrize(
    ("found", "initialized"),
    [
        (snapshot(ended_run(1, "ready")), True),
        (snapshot(ended_run(1, "partial")), False),
        (snapshot(), False),
        (snapshot(ended_run(1, "ready"), **BEHIND), False),
        (
            snapshot(ended_run(2, "partial"), ended_run(2, "partial"), finished=True),
            True,
        ),
    ],
)
def test_initialized(found, initialized) -> None:
    """A database is initialized only if a run of this very build finished."""
    assert found.initialized is initialized


@pytest.mark.parametrize(
    ("latest", "leader_pid", "at_work"),
    [
        (OPEN, 99, True),
        (OPEN, None, False),
        (None, 99, False),
        (ended_run(1, "ready"), 99, False),
        (run_row(build=OTHER), 99, False),
    ],
)
def test_at_work(latest, leader_pid, at_work) -> None:
    """A leader works for a build if it holds the lock and the newest open run is that build's."""
    assert LeaderSnapshot(latest, leader_pid).at_work_for(OWN) is at_work


def test_odd_values() -> None:
    """A value that no version of this package writes becomes a harmless one."""
    values = {
        "id": "x",
        "build": None,
        "state": None,
        "started_at": b"x",
        "age_seconds": None,
        "silence_seconds": float("nan"),
        "duration_seconds": "Infinity",
        "done": None,
        "item_done": "many",
        "error": 5,
    }
    row = records.run_row(values)
    assert row is not None
    assert (row.id, row.build, row.done, row.item_done) == (0, "", 0, None)
    assert (row.age_seconds, row.silence_seconds, row.duration_seconds) == (0, 0, 0)
    assert (row.error, row.state) == ("5", State.MIGRATING)
    step = records.step_row({"position": 1, "kind": "step", "name": 3, "seconds": None})
    assert step == (1, "step", "3", False, None, 0.0)
