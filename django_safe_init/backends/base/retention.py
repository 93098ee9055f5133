"""Decide which old runs are deleted.

Runs only describe what happened. A build whose runs are all deleted is initialized once more,
under the lock, which changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from django_safe_init.core.records import TRANSIENT_OUTCOMES

#: One leader deletes this many runs at most: no start waits for a large deletion.
BATCH = 100


class RetainedRun(NamedTuple):
    """A run as far as retention depends on it."""

    id: int
    build: str
    outcome: str | None
    is_open: bool


def runs_to_delete(
    runs: Sequence[RetainedRun], build: str, keep: int, needed: AbstractSet[int]
) -> list[int]:
    """Return the ids of runs that no later run needs, oldest first, `BATCH` at most.

    `runs` are those of one `LOCK_KEY`, newest first, of which `keep` are left. Kept besides
    are the open run, the runs in `needed`, and the transient ends of `build` that still count
    towards a permanent failure.
    """
    kept = needed | _counting(runs, build)
    old = [run.id for run in runs[keep:] if not run.is_open and run.id not in kept]
    return sorted(old)[:BATCH]


def _counting(runs: Sequence[RetainedRun], build: str) -> set[int]:
    """Return the transient ends since the build's last other end."""
    counting: set[int] = set()
    for run in runs:
        if run.build != build or run.outcome is None:
            continue
        if run.outcome not in TRANSIENT_OUTCOMES:
            break
        counting.add(run.id)
    return counting
