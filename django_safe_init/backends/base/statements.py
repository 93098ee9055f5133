"""Contain the SQL on the status tables that all engines share.

Parameters are written `%(name)s`. `{now}` stands for the engine's current time and `{pid}` for
the process id that identifies the leader.
"""

from __future__ import annotations

from django_safe_init.core.records import (
    OPERATION_TABLE,
    RUN_TABLE,
    STEP_TABLE,
    EntryKind,
)
from django_safe_init.core.step import DONE

OPEN_RUNS = f"""
    SELECT id, build, leader, message FROM {RUN_TABLE}
    WHERE lock_key = %(lock_key)s AND finished_at IS NULL
"""

#: The fields of `RunOutcome`, a build's newest run first.
OUTCOMES = f"""
    SELECT id, leader, outcome, checks, state FROM {RUN_TABLE}
    WHERE lock_key = %(lock_key)s AND build = %(build)s AND outcome IS NOT NULL
    ORDER BY id DESC LIMIT %(limit)s
"""

CLOSE_LEFT_OPEN = f"""
    UPDATE {RUN_TABLE} SET state = 'error', finished_at = {{now}},
      outcome = %(outcome)s, error = %(error)s
    WHERE id = %(id)s
"""

INSERT_RUN = f"""
    INSERT INTO {RUN_TABLE}
      (lock_key, build, state, leader, backend_pid, command, version, checks, release,
       started_at, heartbeat_at)
    VALUES (%(lock_key)s, %(build)s, %(state)s, %(leader)s, {{pid}}, %(command)s, %(version)s,
            %(checks)s, %(release)s, {{now}}, {{now}})
"""

STORE_FINDINGS = f"UPDATE {RUN_TABLE} SET findings = %(findings)s WHERE id = %(run)s"

#: The run whose findings a later run begins with. A run without findings has applied nothing, or
#: an older version of this package has led it.
PREVIOUS_FINDINGS = f"""
    SELECT outcome = 'ready' OR (outcome = 'partial' AND error IS NULL), findings
    FROM {RUN_TABLE}
    WHERE lock_key = %(lock_key)s AND id < %(run)s
      AND (outcome = 'ready' OR findings IS NOT NULL)
    ORDER BY id DESC LIMIT 1
"""

#: The fields of `RetainedRun`, newest run first.
RETAINED_RUNS = f"""
    SELECT id, build, outcome, finished_at IS NULL FROM {RUN_TABLE}
    WHERE lock_key = %(lock_key)s ORDER BY id DESC
"""

_STEPS_OF_RUNS = f"""
    FROM {STEP_TABLE} AS s JOIN {RUN_TABLE} AS r ON r.id = s.run_id
    WHERE r.lock_key = %(lock_key)s
"""

#: The non-atomic steps that were started and not finished: the newest of each name.
INTERRUPTED_STEPS = f"""
    WITH step AS (SELECT s.* {_STEPS_OF_RUNS} AND s.kind IN ('migration', 'step'))
    SELECT run_id, name, backwards, detail FROM step
    WHERE NOT atomic AND finished_at IS NULL AND NOT EXISTS
      (SELECT 1 FROM step AS newer WHERE newer.name = step.name AND newer.id > step.id)
"""

#: The completed steps, newest first.
COMPLETED_STEPS = f"""
    SELECT s.name, s.detail {_STEPS_OF_RUNS}
      AND s.kind = 'step' AND s.outcome = '{DONE}'
    ORDER BY s.id DESC
"""

#: The runs with the last completion of each step.
LAST_COMPLETIONS = f"""
    SELECT max(s.run_id) {_STEPS_OF_RUNS}
      AND s.kind = 'step' AND s.outcome = '{DONE}'
    GROUP BY s.name
"""


def journal_scope(lock_key: str, schema: str) -> str:
    """Return the value of the journal's column `lock_key` for a tenant's schema.

    The second line is the schema, so the entries of the shared schema are apart.
    """
    return f"{lock_key}\n{schema}"


#: The journals of the database and of its tenants' schemas.
_IN_SCOPE = """
    (lock_key = %(lock_key)s OR substr(lock_key, 1, length(%(scope)s)) = %(scope)s)
"""
#: The runs that finished an operation of a migration with a journal.
RUNS_WITH_PROGRESS = f"""
    SELECT run_id FROM {OPERATION_TABLE}
    WHERE {_IN_SCOPE} AND kind = '{EntryKind.PROGRESS.value}'
"""
#: After a run that succeeded, no earlier run counts.
DELETE_PROGRESS = f"""
    DELETE FROM {OPERATION_TABLE}
    WHERE {_IN_SCOPE} AND kind = '{EntryKind.PROGRESS.value}'
"""
