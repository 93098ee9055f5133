"""What the status tables say about the newest run."""

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
    """The newest run: who leads, and how far it is."""

    run: int
    leader_pid: int
    state: str
    done: int
    total: int
    migration: str
    #: How far the migration is, if it says so.
    items: str = ""

    @property
    def doing(self) -> str:
        return " ".join(filter(None, (self.migration or self.state, self.items)))


class Observer:
    """Looks at the status tables over a connection of its own; never waits for them."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        # Idle in between, and no wait when a migration locks the tables: watching disturbs nobody.
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

    def look(self) -> Progress | None:
        """The newest run, if there is one yet; as last seen while its tables are locked."""
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
