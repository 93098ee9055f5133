"""The decisions of a follower."""

from __future__ import annotations

import pytest

from django_safe_init.backends.base.context import Context
from django_safe_init.backends.postgresql.observer import PostgresObserver
from django_safe_init.conf import Settings
from django_safe_init.core.build import Build
from django_safe_init.core.deadline import Deadline
from django_safe_init.exceptions import LeaderFailed
from django_safe_init.initialization.follower import Follower
from django_safe_init.initialization.types import Decision
from tests.unit.snapshots import OTHER, OWN, ended_run, run_row, snapshot

BUILD = Build(frozenset(), OWN)
NOTHING = snapshot(missing=("shop.0001_initial",))
BEHIND = {"missing": ("shop.0001_initial",)}
LED = {"leader_pid": 99}
EARLIER, LATER = "2025-12-31T00:00:00+00:00", "2026-01-01T00:00:00.5+00:00"


def follower(since=NOTHING, *, may_lead=True, propagate_failure=True) -> Follower:
    context = Context("default", BUILD, Settings(), Deadline(None))
    return Follower(
        PostgresObserver(context),
        since,
        satisfied=lambda found: found.ready,
        may_lead=may_lead,
        propagate_failure=propagate_failure,
    )


OPEN_ONE = snapshot(run_row(1), **BEHIND, **LED)


@pytest.mark.parametrize(
    ("since", "now", "decision"),
    [
        pytest.param(NOTHING, OPEN_ONE, None, id="led"),
        pytest.param(NOTHING, NOTHING, Decision.CAMPAIGN, id="free"),
        pytest.param(NOTHING, snapshot(**LED, **BEHIND), None, id="leader starts"),
        pytest.param(
            NOTHING, snapshot(ended_run(1, "ready")), Decision.DONE, id="ready"
        ),
        pytest.param(
            NOTHING,
            snapshot(ended_run(1, "ready"), **LED),
            Decision.DONE,
            id="ready, not yet unlocked",
        ),
        pytest.param(
            OPEN_ONE,
            snapshot(ended_run(1, "ready")),
            Decision.DONE,
            id="ended during the wait",
        ),
        pytest.param(
            snapshot(ended_run(1, "ready")),
            snapshot(ended_run(1, "ready")),
            Decision.CAMPAIGN,
            id="ended before: --force",
        ),
        pytest.param(
            snapshot(ended_run(7, "transient")),
            snapshot(ended_run(7, "ready", started_at=LATER)),
            Decision.DONE,
            id="after a failover: the same id again",
        ),
        pytest.param(
            snapshot(run_row(7), **BEHIND),
            snapshot(ended_run(6, "ready", started_at=LATER)),
            Decision.DONE,
            id="after a failover: a lower id",
        ),
        pytest.param(
            snapshot(run_row(7), **BEHIND),
            snapshot(ended_run(6, "ready", started_at=EARLIER)),
            Decision.CAMPAIGN,
            id="after a failover: an old run",
        ),
        pytest.param(
            NOTHING,
            snapshot(ended_run(1, "ready"), **BEHIND),
            Decision.CAMPAIGN,
            id="ready and then reversed",
        ),
        pytest.param(
            NOTHING,
            snapshot(ended_run(1, "ready", build=OTHER)),
            Decision.DONE,
            id="another build's work covers ours",
        ),
        pytest.param(
            NOTHING,
            snapshot(ended_run(1, "ready", build=OTHER), **BEHIND),
            Decision.CAMPAIGN,
            id="another build's work does not",
        ),
        pytest.param(
            OPEN_ONE, snapshot(run_row(1), **BEHIND), Decision.CAMPAIGN, id="died"
        ),
        pytest.param(
            OPEN_ONE,
            snapshot(ended_run(1, "transient"), **BEHIND),
            Decision.CAMPAIGN,
            id="transient end",
        ),
        pytest.param(
            snapshot(ended_run(1, "failed"), **BEHIND),
            snapshot(ended_run(1, "failed"), **BEHIND),
            Decision.CAMPAIGN,
            id="failed before the wait",
        ),
        pytest.param(
            NOTHING,
            snapshot(ended_run(1, "failed", build=OTHER), **BEHIND),
            Decision.CAMPAIGN,
            id="another build failed",
        ),
    ],
)
def test_decision(since, now, decision) -> None:
    """A follower that may lead returns, campaigns for the lock, or waits."""
    assert follower(since).decide(now) is decision


@pytest.mark.parametrize("since", [NOTHING, OPEN_ONE])
@pytest.mark.parametrize("leads", [True, False])
def test_shared_failure(since, leads) -> None:
    """A follower raises `LeaderFailed` if a run of this build failed during the wait."""
    failed = snapshot(ended_run(1, "failed"), **BEHIND, **LED)
    with pytest.raises(LeaderFailed) as caught:
        follower(since, may_lead=leads).decide(failed)
    assert (
        str(caught.value) == "The leader web-1:77 of run 1 failed: ValueError: it broke"
    )
    assert caught.value.run == 1


def test_a_failure_that_is_not_propagated() -> None:
    """Without `propagate_failure` a failed run of another leader lets the follower campaign."""
    failed = snapshot(ended_run(1, "failed"), **BEHIND)
    assert follower(propagate_failure=False).decide(failed) is Decision.CAMPAIGN


@pytest.mark.parametrize(
    ("now", "decision"),
    [
        (snapshot(ended_run(1, "ready")), Decision.DONE),
        (snapshot(), Decision.DONE),
        (NOTHING, None),
        (snapshot(run_row(1), **BEHIND), None),
        (snapshot(ended_run(1, "interrupted"), **BEHIND), None),
    ],
)
def test_external(now, decision) -> None:
    """A follower that may not lead waits until its build is ready."""
    assert follower(may_lead=False).decide(now) is decision


@pytest.mark.parametrize(
    ("failed", "is_new"),
    [
        (ended_run(7, "failed", started_at=LATER), True),
        (ended_run(6, "failed", started_at=LATER), True),
        (ended_run(7, "failed"), False),
        (ended_run(6, "failed", started_at=EARLIER), False),
    ],
)
def test_the_failure_of_a_run_with_a_known_id(failed, is_new) -> None:
    """A run of a new primary that failed counts, although its id was seen before."""
    waiting = follower(snapshot(ended_run(7, "failed")))
    if is_new:
        with pytest.raises(LeaderFailed):
            waiting.decide(snapshot(failed))
    else:
        assert waiting.decide(snapshot(failed)) is Decision.CAMPAIGN
