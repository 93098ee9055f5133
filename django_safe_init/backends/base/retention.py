"""Decide which old runs to delete.

Runs only describe the past. If all runs of a build are deleted, the next start initializes the
build once more under the lock, which changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from django_safe_init.core.records import TRANSIENT_OUTCOMES

#: The most runs that one leader deletes, so that no start waits for a large deletion.
BATCH = 100


class RetainedRun(NamedTuple):
    """The columns of a run that retention depends on."""

    id: int
    build: str
    outcome: str | None
    is_open: bool


def runs_to_delete(
    runs: Sequence[RetainedRun], build: str, keep: int, needed: AbstractSet[int]
) -> list[int]:
    """Return the ids of runs that no later run needs, oldest first, at most `BATCH`.

    `runs` belong to one `LOCK_KEY`, newest first, and the newest `keep` runs stay. The open run
    stays too, the runs in `needed`, and the transient failures of `build` that still count
    towards a permanent failure.
    """
    kept = needed | _counted_failures(runs, build)
    old = [run.id for run in runs[keep:] if not run.is_open and run.id not in kept]
    return sorted(old)[:BATCH]


def _counted_failures(runs: Sequence[RetainedRun], build: str) -> set[int]:
    """Return the build's transient failures since its newest other outcome."""
    failures: set[int] = set()
    for run in runs:
        if run.build != build or run.outcome is None:
            continue
        if run.outcome not in TRANSIENT_OUTCOMES:
            break
        failures.add(run.id)
    return failures
