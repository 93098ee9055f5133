"""Define the reader of a database's status."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from django_safe_init.backends.base.journal import READ_JOURNAL
from django_safe_init.backends.base.statements import (
    COMPLETED_STEPS,
    INTERRUPTED_STEPS,
    PREVIOUS_FINDINGS,
)
from django_safe_init.core.build import Build
from django_safe_init.core.records import (
    Activity,
    InterruptedStep,
    JournalEntry,
    LeaderSnapshot,
    PreviousFindings,
    RunDetail,
    RunRow,
    Snapshot,
)
from django_safe_init.core.schemas import (
    NONE_BLOCKED,
    BlockedTenants,
    SchemaSummary,
    TenantStatus,
)
from django_safe_init.core.step import CompletedStep, completed_step


class BaseReader(ABC):
    """A reader of one database's status tables and `django_migrations`, for one build.

    No method writes, or holds a lock or a snapshot longer than its query. Every method raises
    `TablesLocked` while a migration locks the tables, and `ConnectionEnded` if the connection
    is lost. The exceptions are `interrupted`, `completed_steps` and `previous_findings`: only
    a leader calls them, they wait for locks, and raise the errors of its session. A reader is
    cheap enough to poll.
    """

    @abstractmethod
    def finished_run(self, release: str | None = None) -> int | None:
        """Return the id of the build's newest run if it ended ready and nothing is missing.

        A release must be the release of that run, and of the newest run of any build that ended
        ready. This is the fast path of a start with nothing to do: one cheap query. Raises
        `TablesUnreadable` if the tables are missing or the role may not read them.
        """

    def on_primary(self) -> bool:
        """Return True unless the server is a standby, which may lack newer transactions."""
        return True

    @abstractmethod
    def read(self) -> Snapshot:
        """Return a full snapshot: missing migrations and steps, runs, and the leader."""

    @abstractmethod
    def peek(self) -> LeaderSnapshot:
        """Return the leader and the newest run, at less cost than `read`."""

    @abstractmethod
    def leader_pid(self) -> int | None:
        """Return the leader's process id or None, also while the tables are locked."""

    def leader_session(self) -> str:
        """Return the leader, or another session, that holds the leader lock; empty if unknown."""
        return ""

    def table_lock_holders(self) -> str:
        """Return the sentence that names the locked tables and the sessions that lock them."""
        return "The status tables stayed locked."

    @abstractmethod
    def history(self, count: int) -> list[RunRow]:
        """Return the newest `count` runs of all builds, newest first."""

    @abstractmethod
    def find_run(self, number: int) -> RunRow | None:
        """Return the run with this id, of any build; None if no such run is recorded."""

    @abstractmethod
    def traceback(self, run: RunRow) -> str | None:
        """Return the traceback of the run's error, if one was recorded."""

    @abstractmethod
    def activity(self) -> Activity:
        """Return the leader's current statement, as far as other sessions can see it."""

    @abstractmethod
    def run_detail(self, run: RunRow, steps: int | None) -> RunDetail:
        """Return the newest `steps` steps of the run (None for no steps), and its followers.

        Raises `TablesUnreadable` if the steps cannot be read.
        """

    @abstractmethod
    def seconds_left(self, run: RunRow, names: Sequence[str]) -> float | None:
        """Return the seconds that the run needs for the named steps, as in earlier runs.

        None if no earlier run has timed one of the steps. Raises `TablesUnreadable` if the
        steps cannot be read.
        """

    @abstractmethod
    def interrupted(self) -> dict[str, InterruptedStep]:
        """Return the non-atomic migrations and steps that earlier leaders left unfinished."""

    def journal(self) -> list[JournalEntry]:
        """Return the journal of the migrations that are half done."""
        return []

    def schemas(self) -> SchemaSummary | None:
        """Return the schemas of tenants, also while the shared schema is not done.

        None without tenants, and before the table of tenants exists.
        """
        return None

    def tenants(self) -> list[TenantStatus]:
        """Return the status of each tenant's schema, by name."""
        return []

    def lacking(self, schema: str) -> tuple[str, ...]:
        """Return the migrations of the build that a tenant's schema lacks, sorted."""
        return ()

    def blocked(self, behind: Sequence[str]) -> BlockedTenants:
        """Return which of the schemas have requests that wait, with their host names."""
        return NONE_BLOCKED

    @abstractmethod
    def completed_steps(self) -> list[CompletedStep]:
        """Return the steps that runs completed, newest first."""

    @abstractmethod
    def previous_findings(self, run: int) -> PreviousFindings | None:
        """Return the findings of the newest run before this one that has some, or None."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection, if the reader opened it."""


class TableReader(BaseReader):
    """A reader that uses the SQL in `base.statements`."""

    def __init__(self, alias: str, build: Build, lock_key: str | None) -> None:
        self.alias = alias
        self.lock_key = lock_key or ""
        self.definition = build
        self.build = build.fingerprint
        self.steps = build.steps_of(alias)

    @abstractmethod
    def _rows(self, statement: str, params: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Return the rows of a statement from `base.statements`."""

    def interrupted(self) -> dict[str, InterruptedStep]:
        rows = self._rows(INTERRUPTED_STEPS, {"lock_key": self.lock_key})
        return {
            name: InterruptedStep.from_row(run, name, backwards, decode_detail(detail))
            for run, name, backwards, detail in rows
        }

    def journal(self) -> list[JournalEntry]:
        if not self._has_journal():
            return []
        rows = self._rows(READ_JOURNAL, {"lock_key": self.lock_key})
        return [JournalEntry.from_row(row) for row in rows]

    @abstractmethod
    def _has_journal(self) -> bool:
        """Return True if the table of the journal exists."""

    def completed_steps(self) -> list[CompletedStep]:
        rows = self._rows(COMPLETED_STEPS, {"lock_key": self.lock_key})
        return [completed_step(name, decode_detail(detail)) for name, detail in rows]

    def previous_findings(self, run: int) -> PreviousFindings | None:
        rows = self._rows(PREVIOUS_FINDINGS, {"lock_key": self.lock_key, "run": run})
        for finished, findings in rows:
            return decode_findings(bool(finished), findings)
        return None


def decode_findings(finished: bool, text: str | None) -> PreviousFindings:
    """Return the findings in a run's row, which any program may have written."""
    try:
        found = json.loads(text or "{}")
    except ValueError:
        found = {}
    lists = found if isinstance(found, dict) else {}
    known, caused = (
        tuple(map(str, lists.get(name) or ())) for name in ("known", "caused")
    )
    return PreviousFindings(finished, known, caused)


def decode_detail(detail: Any) -> Any:
    """Return a step's `detail` as a value. Some drivers do not decode JSON."""
    return json.loads(detail) if isinstance(detail, str) else detail
