"""What earlier runs left on SQLite: marks of unfinished migrations and steps, and old runs."""

from __future__ import annotations

import json
from collections.abc import Set as AbstractSet
from typing import Any

from django_safe_init.backends.sqlite3.session import SQLiteSession
from django_safe_init.backends.sqlite3.steps import runs_of_the_last
from django_safe_init.core.columns import RUN_TABLE, STEP_TABLE
from django_safe_init.core.records import TRANSIENT_OUTCOMES, InterruptedStep

_MARKS = f"""
    WITH step AS (
      SELECT s.* FROM {STEP_TABLE} s JOIN {RUN_TABLE} r ON r.id = s.run_id
      WHERE kind IN ('migration', 'step') AND r.lock_key = :lock_key)
    SELECT run_id, name, backwards, detail FROM step
    WHERE NOT atomic AND finished_at IS NULL AND NOT EXISTS
      (SELECT 1 FROM step AS newer WHERE newer.name = step.name AND newer.id > step.id)
"""
_RUNS = f"""
    SELECT id, build, outcome, finished_at FROM {RUN_TABLE}
    WHERE lock_key = :lock_key ORDER BY id DESC
"""


def read_interrupted(
    session: SQLiteSession, lock_key: str | None
) -> dict[str, InterruptedStep]:
    """The newest marks without an end, by the migration's, or step's, name."""
    rows = session.rows(_MARKS, {"lock_key": lock_key or ""})
    return {
        row["name"]: InterruptedStep.from_row(
            row["run_id"],
            row["name"],
            row["backwards"],
            json.loads(row["detail"]) if row["detail"] else None,
        )
        for row in rows
    }


def prune(
    session: SQLiteSession,
    lock_key: str | None,
    build: str,
    keep: int,
    needed: AbstractSet[int],
) -> None:
    """Remove the oldest runs and their steps, as `pruning.prune` does on PostgreSQL."""
    with session.writing():
        runs = session.rows(_RUNS, {"lock_key": lock_key or ""})
        kept = (
            needed | _still_counting(runs, build) | runs_of_the_last(session, lock_key)
        )
        for run in runs[keep:]:
            if run["finished_at"] and run["id"] not in kept:
                session.rows(f"DELETE FROM {STEP_TABLE} WHERE run_id = :id", run)
                session.rows(f"DELETE FROM {RUN_TABLE} WHERE id = :id", run)


def _still_counting(runs: list[dict[str, Any]], build: str) -> set[int]:
    """The transient ends of this build that still count towards giving up."""
    counting: set[int] = set()
    for run in runs:
        if run["build"] != build or run["outcome"] is None:
            continue
        if run["outcome"] not in TRANSIENT_OUTCOMES:
            break
        counting.add(run["id"])
    return counting
