"""Which steps are done, by SQLite's table of steps."""

from __future__ import annotations

import json

from django_safe_init.backends.sqlite3.session import SQLiteSession
from django_safe_init.core.columns import RUN_TABLE, STEP_TABLE
from django_safe_init.core.step import DONE, CompletedStep, completed_step

_RECORDS = f"""
    SELECT s.name, s.detail, s.run_id FROM {STEP_TABLE} s JOIN {RUN_TABLE} r ON r.id = s.run_id
    WHERE r.lock_key = :lock_key AND s.kind = 'step'
      AND s.outcome = '{DONE}'
    ORDER BY s.id DESC
"""


def read_records(session: SQLiteSession, lock_key: str | None) -> list[CompletedStep]:
    """The steps that runs have done, newest first."""
    rows = session.rows(_RECORDS, {"lock_key": lock_key or ""})
    return [
        completed_step(row["name"], json.loads(row["detail"] or "{}")) for row in rows
    ]


def runs_of_the_last(session: SQLiteSession, lock_key: str | None) -> set[int]:
    """The runs in which each step was done last."""
    last: dict[str, int] = {}
    for row in session.rows(_RECORDS, {"lock_key": lock_key or ""}):
        last.setdefault(row["name"], row["run_id"])
    return set(last.values())
