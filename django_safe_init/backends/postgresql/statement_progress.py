"""Read the progress and the blockers of a run's statement from the server's views."""

from __future__ import annotations

import time
from collections.abc import Callable

import psycopg

from django_safe_init.backends.postgresql.activity import blockers_of, how_to_end
from django_safe_init.backends.postgresql.errors import session_error
from django_safe_init.backends.postgresql.recorder import PostgresRecorder
from django_safe_init.backends.postgresql.run_connections import FencedConnections
from django_safe_init.backends.postgresql.session import Session
from django_safe_init.conf import HEARTBEAT_SECONDS
from django_safe_init.core.progress import ProgressUpdate
from django_safe_init.core.text import name_some

#: The commands whose progress PostgreSQL reports (manual, 28.4). A phase that waits counts
#: sessions. Other phases count blocks, or tuples if their total is known. A value is NULL if this
#: role may not see it.
_PROGRESS = """
    SELECT what, done, nullif(total, 0) FROM (
      SELECT pid, command || ', ' || phase,
             CASE WHEN phase LIKE 'waiting%%' THEN lockers_done
                  WHEN tuples_total > 0 THEN tuples_done ELSE blocks_done END,
             CASE WHEN phase LIKE 'waiting%%' THEN lockers_total
                  WHEN tuples_total > 0 THEN tuples_total ELSE blocks_total END
      FROM pg_stat_progress_create_index
      UNION ALL
      SELECT pid, command || ', ' || phase,
             CASE WHEN phase = 'seq scanning heap' THEN heap_blks_scanned
                  WHEN phase = 'rebuilding index' THEN index_rebuild_count
                  ELSE greatest(heap_tuples_scanned, heap_tuples_written) END,
             CASE WHEN phase = 'seq scanning heap' THEN heap_blks_total END
      FROM pg_stat_progress_cluster
      UNION ALL
      SELECT pid, 'VACUUM, ' || phase, heap_blks_scanned, heap_blks_total
      FROM pg_stat_progress_vacuum
      UNION ALL
      SELECT pid, command || CASE WHEN bytes_total > 0 THEN ', bytes' ELSE ', rows' END,
             CASE WHEN bytes_total > 0 THEN bytes_processed ELSE tuples_processed END,
             bytes_total
      FROM pg_stat_progress_copy
    ) AS progress(pid, what, done, total)
    WHERE pid = %(pid)s AND what IS NOT NULL LIMIT 1
"""


class StatementProgress:
    """The progress and the blockers of the migrating session, read on the leader session.

    The server is queried at most once per heartbeat.
    """

    def __init__(
        self,
        session: Session,
        fenced: FencedConnections,
        recorder: PostgresRecorder,
        report: Callable[[str], None],
    ) -> None:
        self._session = session
        self._fenced = fenced
        self._recorder = recorder
        self._report = report
        self._read_at = 0.0
        #: The blocked step and its blockers in the last report.
        self._reported: tuple[str, list[str]] | None = None

    def read(self) -> ProgressUpdate | None:
        """Return the statement's progress, at most one heartbeat old; None if unknown.

        Reports new blockers. Raises `LockLost` or
        `InitializationFailed`.
        """
        now = time.monotonic()
        if now - self._read_at < HEARTBEAT_SECONDS * 0.9:
            return self._recorder.progress.statement
        self._read_at = now
        try:
            self._report_blockers()
            rows = self._session.rows(_PROGRESS, {"pid": self._fenced.backend_pid})
        except psycopg.Error as exc:
            raise session_error(exc) from exc
        return next(
            (ProgressUpdate(done, total, what) for what, done, total in rows), None
        )

    def _report_blockers(self) -> None:
        found = blockers_of(self._session, self._fenced.backend_pid)
        blocked = (self._recorder.message, [how_to_end(each) for each in found])
        if found and blocked != self._reported:
            self._reported = blocked
            self._report(
                f"{self._recorder.message} is blocked by {name_some(found)}. "
                f"To end it: {how_to_end(found[0])}"
            )
