"""The schedule of initializations in the background."""

from __future__ import annotations

import math
from typing import Any

import pytest
from django.db.models.signals import post_migrate

from django_safe_init.core.build import Build
from django_safe_init.core.records import (
    ConnectionEnded,
    RunRow,
    Snapshot,
    TablesLocked,
)
from django_safe_init.core.schemas import SchemaProgress, SchemaSummary
from django_safe_init.exceptions import DatabaseUnreachable
from django_safe_init.serving.background import backoff as module
from django_safe_init.serving.background.backoff import (
    backoff,
    is_idle,
    receivers_are_due,
    seconds_until_due,
    seconds_until_retry,
)
from django_safe_init.status import Status
from tests.unit.conftest import BEHIND, READY, status_of
from tests.unit.serving.conftest import Reader, failed
from tests.unit.snapshots import OTHER, OWN, ended_run, run_row, snapshot

BUILD = Build(frozenset(), OWN)
DUE = status_of(BEHIND)
FAILED = status_of(snapshot(ended_run(1, "failed"), missing=("shop.0002_secret",)))
LED = status_of(snapshot(run_row(1), leader_pid=99, missing=("shop.0002_secret",)))


def test_pauses() -> None:
    """Each failure doubles the pause, up to a maximum that the runs which are read can reach."""
    assert [backoff(failures) for failures in range(1, 9)] == [
        *(5, 10, 20, 40, 80, 160),
        *(300, 300),
    ]
    assert backoff(module._MAX_RUNS) == module.MAX_PAUSE


@pytest.mark.parametrize("status", [READY, LED, Status.unreachable("default")])
def test_nothing_to_do(status: Status) -> None:
    """A database that is ready, has a leader or is unreachable is never due."""
    assert seconds_until_retry(status, [failed(1, 1000)], OWN) == math.inf


@pytest.mark.parametrize(
    ("runs", "seconds"),
    [
        ([], 0),
        ([failed(1, 1)], 4),
        ([failed(1, 6)], -1),
        ([failed(2, 1), failed(1, 60)], 9),
        ([failed(number, 100) for number in range(8, 0, -1)], 200),
        ([failed(1, 1, build=OTHER)], 0),
        ([failed(3, 1), failed(2, 30, build=OTHER), failed(1, 60)], 9),
        ([ended_run(2, "interrupted"), failed(1, 1)], 0),
        ([failed(3, 1), ended_run(2, "ready"), failed(1, 60)], 4),
        ([run_row(2), failed(1, 1)], 0),
    ],
)
def test_when_it_is_time(runs: list[RunRow], seconds: float) -> None:
    """A database is due at once, or after a pause if the newest runs of this build failed."""
    assert seconds_until_retry(DUE, runs, OWN) == pytest.approx(seconds)


def test_a_lost_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """A database whose connection is lost is not due."""
    reader = Reader(FAILED, [])
    reader.lost = ConnectionEnded("gone")
    monkeypatch.setattr(module, "open_reader", lambda *arguments: reader)
    monkeypatch.setattr(module, "read_status", lambda alias, reader: reader.status)
    assert seconds_until_due("default", BUILD) == math.inf


def test_runs_in_the_database(set_database: Any) -> None:
    """The runs in the database determine the remaining seconds."""
    set_database(FAILED, failed(1, 1))
    assert seconds_until_due("default", BUILD) == pytest.approx(4)
    set_database(DatabaseUnreachable())
    assert seconds_until_due("default", BUILD) == math.inf


class SnapshotReader:
    """A reader that returns one snapshot, or raises an error."""

    def __init__(self, seen: Snapshot | Exception) -> None:
        self.seen = seen

    def read(self) -> Snapshot:
        if isinstance(self.seen, Exception):
            raise self.seen
        return self.seen

    def close(self) -> None: ...


def due(monkeypatch: Any, seen: Any, seconds: float = 100.0) -> bool:
    reader = SnapshotReader(seen)
    monkeypatch.setattr(module, "open_reader", lambda *arguments: reader)
    return receivers_are_due(["default"], BUILD, seconds)


def test_receivers_of_a_release(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The receivers are due unless the newest runs carry the release."""
    settings.SAFE_INIT = {"RELEASE": "v2"}
    run = ended_run(1, "ready", release="v2")
    assert due(monkeypatch, snapshot())
    assert due(monkeypatch, snapshot(run, release="v1"))
    assert not due(monkeypatch, snapshot(run, release="v2"))
    for error in (TablesLocked(), DatabaseUnreachable()):
        assert due(monkeypatch, error)


def test_receivers_without_a_release(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a release the receivers are due once after each start of the server."""
    assert not due(monkeypatch, DatabaseUnreachable())

    def install(**kwargs: Any) -> None: ...

    post_migrate.connect(install)
    seen = snapshot(ended_run(1, "ready", age_seconds=60.0, duration_seconds=10.0))
    assert due(monkeypatch, seen, 49)
    assert not due(monkeypatch, seen, 51)
    assert due(monkeypatch, snapshot(ended_run(1, "ready", build=OTHER)))


def test_tenants_that_are_behind() -> None:
    """A database whose tenants are behind is idle, unless a leader is at work."""
    failed_run = ended_run(1, "failed", schemas=SchemaProgress(3, 1, 1))
    behind = {"shared_suffices": True, "schemas": SchemaSummary(3, ("t1",))}
    idle = status_of(snapshot(failed_run, **behind))
    assert idle.ready
    assert is_idle(idle)
    assert not is_idle(status_of(snapshot(failed_run, **behind, leader_pid=99)))
