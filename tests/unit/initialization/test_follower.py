"""The decisions of a follower."""

from __future__ import annotations

from dataclasses import replace

import pytest

from django_safe_init.backends.base.context import Context
from django_safe_init.backends.postgresql.observer import PostgresObserver
from django_safe_init.conf import Settings
from django_safe_init.core.build import Build
from django_safe_init.core.deadline import Deadline
from django_safe_init.core.records import LeaderSnapshot
from django_safe_init.core.schemas import SchemaProgress, SchemaSummary
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


# Tenants

IN_TENANTS = run_row(1, schemas=SchemaProgress(3, 1))
SHARED = {"shared_suffices": True, "schemas": SchemaSummary(3, ("t1", "t2"))}


@pytest.mark.parametrize(
    ("now", "decision"),
    [
        pytest.param(snapshot(IN_TENANTS, **SHARED, **LED), Decision.DONE, id="led"),
        pytest.param(snapshot(IN_TENANTS, **SHARED), Decision.CAMPAIGN, id="died"),
        pytest.param(
            snapshot(ended_run(1, "failed", schemas=SchemaProgress(3, 1)), **SHARED),
            Decision.CAMPAIGN,
            id="failed in tenants",
        ),
        pytest.param(snapshot(IN_TENANTS, **LED), None, id="all of them"),
        pytest.param(
            snapshot(run_row(1), shared_suffices=True, **LED), None, id="in shared"
        ),
    ],
)
def test_shared_schema_is_done(now, decision) -> None:
    """By policy, a follower goes on while the leader is in the schemas of tenants."""
    assert follower().decide(now) is decision


def test_a_leader_does_not_follow_itself() -> None:
    """A process that holds the lock leads, although the shared schema is done."""
    now = snapshot(IN_TENANTS, **SHARED, **LED)
    assert follower().decide(now, holds_lock=True) is None
    free = snapshot(IN_TENANTS, **SHARED)
    assert follower().decide(free, holds_lock=True) is Decision.CAMPAIGN


@pytest.mark.parametrize(
    ("readiness", "run", "suffices"),
    [
        ("all", IN_TENANTS, False),
        ("shared", IN_TENANTS, True),
        ("shared", run_row(1), False),
        ("shared", None, False),
    ],
)
def test_a_run_that_may_suffice(readiness, run, suffices) -> None:
    """A follower reads more of a run that has done the shared schema, if that is enough."""
    waiting = follower()
    settings = Settings(tenant_readiness=readiness)
    waiting.observer.context = replace(waiting.observer.context, settings=settings)
    assert waiting._may_suffice(LeaderSnapshot(run, 99)) is suffices
