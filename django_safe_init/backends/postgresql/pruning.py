"""Old runs, removed on the leader session when a run is opened.

Runs only narrate: a build whose runs are all gone is initialized once more, under the lock, and
nothing else. What a later run needs stays, however old it is.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import psycopg

from django_safe_init.backends.postgresql.schema import may_delete
from django_safe_init.backends.postgresql.session import (
    Session,
    is_connection_loss,
    session_error,
)
from django_safe_init.backends.postgresql.steps import LAST_DONE
from django_safe_init.core.columns import RUN_TABLE, STEP_TABLE
from django_safe_init.core.records import TRANSIENT_OUTCOMES
from django_safe_init.core.step import DONE
from django_safe_init.core.text import one_line

logger = logging.getLogger("django_safe_init")

#: How many runs one leader removes at most: nobody waits for a large clean-up.
BATCH = 100

_OLD = f"""
    SELECT id FROM {RUN_TABLE} old
    WHERE lock_key = %(lock_key)s AND finished_at IS NOT NULL
      AND id <> ALL(%(needed)s::bigint[])
      AND id NOT IN ({LAST_DONE})
      AND id < (SELECT id FROM {RUN_TABLE} WHERE lock_key = %(lock_key)s
                ORDER BY id DESC OFFSET %(keep)s - 1 LIMIT 1)
      AND NOT (build = %(build)s AND outcome = ANY(%(transient)s) AND NOT EXISTS
        (SELECT FROM {RUN_TABLE} newer
         WHERE newer.lock_key = old.lock_key AND newer.build = old.build
           AND newer.id > old.id AND newer.outcome <> ALL(%(transient)s)))
    ORDER BY id LIMIT %(batch)s
"""
_PRUNE = f"""
    WITH old AS MATERIALIZED ({_OLD}),
    steps AS (DELETE FROM {STEP_TABLE} WHERE run_id IN (SELECT id FROM old))
    DELETE FROM {RUN_TABLE} WHERE id IN (SELECT id FROM old)
"""


def prune(
    session: Session,
    lock_key: str | None,
    build: str,
    keep: int,
    needed: Iterable[int],
) -> None:
    """Remove the oldest runs of this `LOCK_KEY` and their steps, so that `keep` are left.

    Not the open one, not those in `needed` (they hold marks of unfinished migrations), not those
    in which a step was done last, and not the transient ends of this build that still count
    towards giving up. What cannot be removed
    is left for the next leader; only the loss of the session is an error: `LockLost`.
    """
    params = {
        "lock_key": lock_key or "",
        "build": build,
        "keep": keep,
        "needed": list(needed),
        "transient": list(TRANSIENT_OUTCOMES),
        "batch": BATCH,
        "done": DONE,
    }
    try:
        session.rows(_PRUNE, params)
    except psycopg.errors.InsufficientPrivilege:
        logger.warning("Old runs are kept. %s", may_delete(session))
    except psycopg.Error as exc:
        if is_connection_loss(exc):
            raise session_error(exc) from exc
        logger.warning("Old runs are kept for now: %s", one_line(exc))
