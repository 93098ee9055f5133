"""The marks of unfinished migrations and steps, in PostgreSQL's table of steps."""

from __future__ import annotations

import psycopg

from django_safe_init.backends.postgresql.schema import missing_privilege
from django_safe_init.backends.postgresql.session import Session
from django_safe_init.core.columns import RUN_TABLE, STEP_TABLE
from django_safe_init.core.records import InterruptedStep

_MARKS = f"""
    WITH step AS (
      SELECT s.* FROM {STEP_TABLE} s JOIN {RUN_TABLE} r ON r.id = s.run_id
      WHERE kind IN ('migration', 'step') AND r.lock_key = %(lock_key)s)
    SELECT run_id, name, backwards, detail FROM step
    WHERE NOT atomic AND finished_at IS NULL AND NOT EXISTS
      (SELECT FROM step newer WHERE newer.name = step.name AND newer.id > step.id)
"""


def read_interrupted(
    session: Session, lock_key: str | None
) -> dict[str, InterruptedStep]:
    """The newest marks without an end, by the migration's, or step's, name."""
    try:
        rows = session.rows(_MARKS, {"lock_key": lock_key or ""})
    except psycopg.errors.InsufficientPrivilege as exc:
        raise missing_privilege(session, exc) from exc
    return {row[1]: InterruptedStep.from_row(*row) for row in rows}
