"""Retention deletes the runs that no later run needs."""

from __future__ import annotations

import pytest

from django_safe_init.backends.base import retention
from django_safe_init.backends.base.retention import RetainedRun, runs_to_delete


def runs(*outcomes: str | None, build: str = "x") -> list[RetainedRun]:
    """Return runs with these outcomes, newest first; the last one has the id 1."""
    ids = range(len(outcomes), 0, -1)
    return [
        RetainedRun(run, build, outcome, is_open=outcome is None)
        for run, outcome in zip(ids, outcomes, strict=True)
    ]


@pytest.mark.parametrize(
    ("outcomes", "keep", "needed", "deleted"),
    [
        (["ready"] * 5, 2, set(), [1, 2, 3]),
        (["ready"] * 2, 2, set(), []),
        (["ready"] * 4, 1, {2}, [1, 3]),
        ([None, "ready"], 0, set(), [1]),
        (["ready", None, "ready"], 1, set(), [1]),
        (["transient", "interrupted", "ready", "abandoned"], 0, set(), [1, 2]),
        ([None, "transient", "failed", "transient"], 0, set(), [1, 2]),
    ],
)
def test_runs_to_delete(outcomes, keep, needed, deleted) -> None:
    """The newest, open and needed runs are kept, and transient failures that count."""
    assert runs_to_delete(runs(*outcomes), "x", keep, needed) == deleted


def test_another_builds_failures() -> None:
    """Another build's runs neither are kept nor end the row of this build's failures."""
    own = RetainedRun(1, "x", "transient", is_open=False)
    other = [
        RetainedRun(3, "y", "transient", False),
        RetainedRun(2, "y", "ready", False),
    ]
    assert runs_to_delete([*other, own], "x", 0, set()) == [2, 3]


def test_a_batch(monkeypatch) -> None:
    """One leader deletes at most `BATCH` runs: the oldest."""
    monkeypatch.setattr(retention, "BATCH", 2)
    assert runs_to_delete(runs(*["ready"] * 5), "x", 1, set()) == [1, 2]
