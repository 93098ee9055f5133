"""The policy of a recorder: which runs are closed how, and which failures count."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from django_safe_init.backends.base.recorder import (
    BaseRecorder,
    OpenRun,
    RunEnd,
    RunOutcome,
    end_of,
    failures_in_a_row,
)
from django_safe_init.core.progress import ProgressTracker
from django_safe_init.core.records import LostRuns
from django_safe_init.core.schemas import SchemaProgress
from django_safe_init.core.states import State


@pytest.mark.parametrize(
    ("message", "lost", "end"),
    [
        ("a.1", LostRuns(), RunEnd(7, "abandoned", "the leader web:1 died in a.1")),
        ("", LostRuns(), RunEnd(7, "abandoned", "the leader web:1 died")),
        (
            "a.1",
            LostRuns([8], "gone"),
            RunEnd(7, "abandoned", "the leader web:1 died in a.1"),
        ),
        (
            "a.1",
            LostRuns([6, 7], "it is\0gone", "web:1"),
            RunEnd(7, "transient", r"it is\x00gone"),
        ),
        (
            "a.1",
            LostRuns([6, 7], "gone", "web:2"),
            RunEnd(7, "abandoned", "the leader web:1 died in a.1"),
        ),
    ],
)
def test_the_end_of_an_open_run(message, lost, end) -> None:
    """A run is abandoned unless this process itself lost it."""
    assert end_of(OpenRun(7, "build", "web:1", message), lost) == end


@pytest.mark.parametrize(
    ("outcomes", "failures"),
    [
        ([], 0),
        (["ready", "transient"], 0),
        (["transient", "interrupted", "abandoned"], 3),
        (["transient", "failed", "transient"], 1),
        (["abandoned", "partial", "abandoned"], 1),
    ],
)
def test_failures_in_a_row(outcomes, failures) -> None:
    """Transient outcomes count up to the newest other outcome."""
    ends = [RunOutcome(run, "web:1", outcome) for run, outcome in enumerate(outcomes)]
    assert failures_in_a_row(ends, LostRuns()) == failures


def test_lost_runs_do_not_count() -> None:
    """Runs that this process lost neither count nor end the row."""
    outcomes = [
        RunOutcome(9, "web:1", "transient"),
        RunOutcome(8, "web:1", "transient"),
        RunOutcome(7, "web:1", "abandoned"),
        RunOutcome(6, "web:1", "ready"),
    ]
    assert failures_in_a_row(outcomes, LostRuns([9, 7], "gone", "web:1")) == 1


def test_lost_outputs_do_not_count() -> None:
    """Runs whose process lost its output neither count nor end the row."""
    outcomes = [
        RunOutcome(9, "web:2", "transient", state="uninitialized"),
        RunOutcome(8, "web:1", "transient"),
        RunOutcome(7, "web:3", "transient", state="uninitialized"),
        RunOutcome(6, "web:1", "abandoned"),
        RunOutcome(5, "web:1", "failed"),
    ]
    assert failures_in_a_row(outcomes, LostRuns()) == 2


def test_another_leaders_run_with_the_id_of_a_lost_run_counts() -> None:
    """After a failover another leader's run may have the id of a run that was lost here."""
    outcomes = [
        RunOutcome(9, "web:2", "transient"),
        RunOutcome(8, "web:1", "transient"),
    ]
    assert failures_in_a_row(outcomes, LostRuns([9, 8], "gone", "web:1")) == 1


@pytest.mark.parametrize(
    ("done", "total", "state", "percent"),
    [
        (0, 0, State.MIGRATING, 0),
        (0, 14, State.MIGRATING, 0),
        (7, 14, State.MIGRATING, 50),
        (14, 14, State.VALIDATING, 99),
        (14, 14, State.READY, 100),
        (0, 0, State.READY, 100),
    ],
)
def test_progress(done, total, state, percent) -> None:
    """The progress is the percentage of finished steps; only a ready run is at 100."""
    run = SimpleNamespace(
        run_id=1,
        done=done,
        total=total,
        state=state,
        message="",
        progress=ProgressTracker(),
        schemas=None,
        expected_schemas=0,
    )
    params = BaseRecorder._run_params(run)
    assert params["progress"] == percent
    assert params["schemas"] is None


@pytest.mark.parametrize(
    ("schemas", "percent"),
    [
        (None, 10),
        (SchemaProgress(80, 0, 0), 10),
        (SchemaProgress(80, 35, 5), 50),
        (SchemaProgress(80, 75, 5), 90),
        (SchemaProgress(200, 0, 0), 10),
        (SchemaProgress(3, 3), 90),
    ],
)
def test_progress_with_schemas(schemas, percent) -> None:
    """Each schema of a tenant counts as one step, also a failed one."""
    run = SimpleNamespace(
        run_id=1,
        done=10,
        total=20,
        state=State.MIGRATING,
        message="",
        progress=ProgressTracker(),
        schemas=schemas,
        expected_schemas=80,
    )
    params = BaseRecorder._run_params(run)
    assert params["progress"] == percent
    assert SchemaProgress.from_json(params["schemas"]) == schemas


def test_update_of_schemas() -> None:
    """A schema that was finished since the last write is news for the heartbeat."""
    recorder = SimpleNamespace(
        state=State.MIGRATING,
        run_id=1,
        done=1,
        total=1,
        message="",
        schemas=SchemaProgress(3),
        expected_schemas=3,
        progress=ProgressTracker(),
        _published_schemas=None,
    )
    assert BaseRecorder.has_update(recorder)  # type: ignore[arg-type]
    BaseRecorder._run_params(recorder)  # type: ignore[arg-type]
    assert not BaseRecorder.has_update(recorder)  # type: ignore[arg-type]
    recorder.schemas = SchemaProgress(3, 1)
    assert BaseRecorder.has_update(recorder)  # type: ignore[arg-type]
