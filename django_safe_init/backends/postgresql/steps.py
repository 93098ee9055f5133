"""Which steps are done, by PostgreSQL's table of steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django_safe_init.backends.postgresql.session import Session
from django_safe_init.core.columns import RUN_TABLE, STEP_TABLE
from django_safe_init.core.step import (
    DONE,
    CompletedStep,
    StepDefinition,
    completed_step,
)

_DONE = f"""
    FROM {STEP_TABLE} s JOIN {RUN_TABLE} r ON r.id = s.run_id
    WHERE r.lock_key = %(lock_key)s AND s.kind = 'step' AND s.outcome = %(done)s
"""
_RECORDS = f"SELECT s.name, to_jsonb(s) -> 'detail' {_DONE} ORDER BY s.id DESC"

#: The labels of the steps that no record covers: see `StepDefinition.is_satisfied_by`.
MISSING_STEPS = f"""
    SELECT wanted.label FROM unnest(%(labels)s::text[], %(versions)s::int[], %(prints)s::text[])
      AS wanted(label, version, print)
    WHERE NOT EXISTS (SELECT {_DONE} AND s.name = wanted.label AND CASE
      WHEN wanted.print IS NULL
        THEN (to_jsonb(s) #>> '{{detail,version}}')::int >= wanted.version
      ELSE (to_jsonb(s) #>> '{{detail,version}}')::int = wanted.version
        AND to_jsonb(s) #>> '{{detail,print}}' = wanted.print END)
"""
#: The runs in which each step was done last.
LAST_DONE = f"SELECT DISTINCT ON (s.name) s.run_id {_DONE} ORDER BY s.name, s.id DESC"


def missing_params(steps: Sequence[StepDefinition]) -> dict[str, Any]:
    """The parameters of `MISSING_STEPS`, besides the lock key."""
    return {
        "done": DONE,
        "labels": [step.label for step in steps],
        "versions": [step.version for step in steps],
        "prints": [step.fingerprint_text for step in steps],
    }


def read_records(session: Session, lock_key: str | None) -> list[CompletedStep]:
    """The steps that runs have done, newest first."""
    params = {"lock_key": lock_key or "", "done": DONE}
    return [completed_step(*row) for row in session.rows(_RECORDS, params)]
