"""The progress of the newest run, read from the status tables."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import psycopg

RUN = """
    SELECT run.id, run.leader, run.state, run.done, run.total, coalesce(step.name, ''),
           concat(item_done, '/' || item_total, ' ' || item_message)
    FROM django_safe_init_run AS run
    LEFT JOIN LATERAL (
        SELECT name FROM django_safe_init_step
        WHERE run_id = run.id AND finished_at IS NULL ORDER BY id DESC LIMIT 1
    ) AS step ON true
    ORDER BY run.id DESC LIMIT 1
"""


@dataclass(frozen=True)
class Progress:
    """The newest run: its leader and its progress."""

    run: int
    leader_pid: int
    state: str
    done: int
    total: int
    migration: str
    #: The progress inside the migration, if the migration reports it.
    items: str = ""

    @property
    def doing(self) -> str:
        return " ".join(filter(None, (self.migration or self.state, self.items)))


class Observer:
    """Reads the status tables over a separate connection, without waiting for locks."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        # Idle between two queries, and no wait if a migration locks the tables: blocks nothing.
        connection.execute("SET lock_timeout = '100ms'")
        self._there = False
        self._last: Progress | None = None

    def __enter__(self) -> Observer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._connection.close()

    def poll(self) -> Progress | None:
        """Return the newest run, if any, or the last known one while its tables are locked."""
        with contextlib.suppress(psycopg.errors.LockNotAvailable):
            self._last = self._read()
        return self._last

    def _read(self) -> Progress | None:
        if not self._there:
            row = self._connection.execute(
                "SELECT to_regclass('django_safe_init_step') IS NOT NULL"
            ).fetchone()
            self._there = bool(row and row[0])
        row = self._connection.execute(RUN).fetchone() if self._there else None
        if row is None:
            return None
        run, leader, *rest = row
        return Progress(run, int(leader.rpartition(":")[2]), *rest)
