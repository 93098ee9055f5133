"""Write one run and its steps, by one policy for all engines."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeVar

from django.db.backends.base.base import BaseDatabaseWrapper

from django_safe_init.backends.base.retention import RetainedRun, runs_to_delete
from django_safe_init.backends.base.statements import (
    CLOSE_LEFT_OPEN,
    DELETE_PROGRESS,
    INSERT_RUN,
    LAST_COMPLETIONS,
    OPEN_RUNS,
    OUTCOMES,
    RETAINED_RUNS,
    RUNS_WITH_PROGRESS,
    STORE_FINDINGS,
    journal_scope,
)
from django_safe_init.core.build import Build
from django_safe_init.core.progress import OperationProgress, ProgressTracker
from django_safe_init.core.records import (
    CHECKS_PASSED,
    MAX_TRANSIENT_FAILURES,
    STEP_TABLE,
    TRANSIENT_OUTCOMES,
    LostRuns,
    leader_name,
)
from django_safe_init.core.schemas import SchemaProgress
from django_safe_init.core.states import State
from django_safe_init.core.step import DONE
from django_safe_init.core.text import printable, wrap
from django_safe_init.exceptions import InitializationFailed, MissingPrivilege
from django_safe_init.version import __version__

T = TypeVar("T")


#: The number of runs that are compared with failed checks.
_MAX_FAILED_CHECKS = 20


class MissingSchema(MissingPrivilege):
    """No schema exists in which the status tables could be created."""


class OpenRun(NamedTuple):
    """A run that its leader left open."""

    id: int
    build: str
    leader: str
    message: str


class RunOutcome(NamedTuple):
    """The end of a run."""

    id: int
    leader: str
    outcome: str
    checks: str | None = None
    state: str = State.ERROR.value

    @property
    def is_harmless(self) -> bool:
        """True if only the run's process was at fault, which tells nothing about the build."""
        return self.state == State.UNINITIALIZED.value


class RunEnd(NamedTuple):
    """The values that close a run whose leader left it open."""

    id: int
    outcome: str
    error: str


@dataclass(frozen=True)
class Fence:
    """The evidence that this process led when it recorded the start of a step."""

    #: Raises `LockLost` if this process did not lead.
    verify: Callable[[], None]


def end_of(run: OpenRun, lost: LostRuns) -> RunEnd:
    """Return the end of a run that its leader left open.

    A run that this process itself lost ends as transient. Any other run ends as abandoned,
    because its leader died.
    """
    if lost.include(run.id, run.leader):
        return RunEnd(run.id, "transient", printable(lost.reason))
    place = f" in {run.message}" if run.message else ""
    return RunEnd(run.id, "abandoned", f"the leader {run.leader} died{place}")


def failures_in_a_row(
    outcomes: Iterable[RunOutcome],
    lost: LostRuns,
    progressed: AbstractSet[int] = frozenset(),
) -> int:
    """Return the number of transient outcomes before the newest other outcome.

    `outcomes` are the newest first. A run that made progress ends the count, too. Runs in
    `lost` do not count, because the setting `RESTARTS` limits a process that survives. Nor do
    runs whose process lost its output.
    """
    failures = 0
    for run in outcomes:
        if run.outcome not in TRANSIENT_OUTCOMES or run.id in progressed:
            break
        failures += not (run.is_harmless or lost.include(run.id, run.leader))
    return failures


def is_second_failure(
    outcomes: Iterable[RunOutcome], checks: str, recorded_here: LostRuns
) -> bool:
    """Return True if the checks failed before in another process, or the build already failed.

    `outcomes` are the newest first, and count back to the newest run whose checks passed. The
    first failure may come from one process's environment. `recorded_here` are the failures that
    this process itself recorded.
    """
    for position, run in enumerate(outcomes):
        # A first failure must not hide the failure of an earlier run.
        if position == 0 and run.outcome == "failed":
            return True
        if run.outcome == "ready" or run.checks == CHECKS_PASSED:
            return False
        if run.checks == checks and not recorded_here.include(run.id, run.leader):
            return True
    return False


#: A time-out that is too short for a migration ends start after start.
_RAISE_TIME_OUTS = (
    "If a start time-out ended these processes, raise it: TimeoutStartSec in systemd, "
    "healthCheckGracePeriodSeconds or startTimeout in Amazon ECS, failureThreshold of the "
    "startupProbe in Kubernetes."
)


def repeated_failure(outcome: str, error: str | None) -> str:
    """Return the error of a run whose transient outcome was the build's third in a row.

    After a signal or a death it names the time-outs that may have caused it.
    """
    end = "" if outcome == "transient" else f". {_RAISE_TIME_OUTS}"
    start = f"{MAX_TRANSIENT_FAILURES} times in a row, the last time: "
    return wrap(start, error or outcome, end)


class BaseRecorder(ABC):
    """A leader's recorder of one run and its steps.

    Every method raises `LockLost` if the connection to the tables is lost, and
    `InitializationFailed` if the tables cannot be written.
    """

    def __init__(self, build: Build, lock_key: str | None) -> None:
        #: The id of the run; 0 before it is opened.
        self.run_id = 0
        self.state = State.CHECKING_SCHEMA
        #: The number of finished steps, and of all steps.
        self.done = 0
        self.total = 0
        self.message = ""
        #: The name of the running step.
        self.step = ""
        #: The error of the closed run, as it was written.
        self.error: str | None = None
        #: The progress inside the running step.
        self.progress = ProgressTracker()
        self.build = build.fingerprint
        self.lock_key = lock_key or ""
        #: The value of the column `checks` of the run that `open_run` opens.
        self.checks: str | None = None
        #: True once the run has opened a journal.
        self.used_journal = False
        #: The number of tenants' schemas that the run may have to migrate.
        self.expected_schemas = 0
        #: The progress in the tenants' schemas, once the shared schema is done.
        self.schemas: SchemaProgress | None = None
        self._published_schemas: SchemaProgress | None = None
        self._release: str | None = None
        self._lost = LostRuns()

    @abstractmethod
    def ensure_tables(self) -> None:
        """Create the status tables, or add the columns they lack.

        Raises `MissingPrivilege` with the GRANT that the role needs.
        """

    def open_run(
        self, command: str, lost: LostRuns | None = None, release: str | None = None
    ) -> str | None:
        """Close the runs that earlier leaders left open, and open a run; return None.

        `lost` are the runs that this process itself lost. The run keeps `release`. If an
        abandoned run was the build's third transient failure in a row, no run is opened. That
        run is marked as failed, which stops all followers, and the reason is returned.
        """
        lost = lost or LostRuns()
        self._lost = lost
        self._release = release
        return self._transaction(lambda: self._open_run(command, lost))

    def _open_run(self, command: str, lost: LostRuns) -> str | None:
        open_runs = self._open_runs()
        ends = [end_of(run, lost) for run in open_runs]
        own = {run.id for run in open_runs if run.build == self.build}
        abandoned = [e for e in ends if e.outcome == "abandoned" and e.id in own]
        failures = self._failures_of(abandoned) if abandoned else 0
        if failures < MAX_TRANSIENT_FAILURES:
            self.run_id = self._begin_run(ends, command)
            return None
        last = max(abandoned)
        reason = repeated_failure(last.outcome, last.error)
        failed = RunEnd(last.id, "failed", reason)
        self._end_runs([failed if end is last else end for end in ends])
        self.run_id = last.id
        return reason

    def _failures_of(self, abandoned: Iterable[RunEnd]) -> int:
        """Return how many runs failed in a row, of which the newest were abandoned."""
        progressed = self._runs_with_progress()
        failures = 0
        for run in sorted(abandoned, reverse=True):
            if run.id in progressed:
                return failures
            failures += 1
        return failures + self._failures_in_a_row(progressed)

    def _failures_in_a_row(self, progressed: AbstractSet[int]) -> int:
        limit = MAX_TRANSIENT_FAILURES + len(self._lost.runs)
        return failures_in_a_row(self._outcomes(limit), self._lost, progressed)

    def _runs_with_progress(self) -> set[int]:
        """Return the runs that finished an operation of a migration with a journal.

        Such a run is no failure, however it ended: the next one begins behind it.
        """
        return set()

    def _delete_progress(self) -> None:  # noqa: B027  (an engine without a journal)
        """Delete the evidence that runs made progress, after a run that succeeded."""

    @abstractmethod
    def update(self, state: State, message: str = "") -> None:
        """Write the run's state, and a message about its current work."""

    @abstractmethod
    def start_step(
        self,
        name: str,
        *,
        backwards: bool,
        atomic: bool,
        detail: Any = None,
        kind: str = "migration",
    ) -> Fence:
        """Record the start of a migration or step, and return the fence that protects it.

        Call it inside `RunSession.connections`. On return the record is on disk. The record of
        an atomic migration is on its way instead, and arrives even if this process dies.
        """

    def start_operation(self, number: int, total: int, name: str) -> None:
        """Note the operation of the running step, which the next write of progress records."""
        self.message = f"{self.step}: operation {number} of {total}, {name}"
        self.progress.operation = OperationProgress(number, total, name)

    @abstractmethod
    def finish_step(self, outcome: str) -> None:
        """Record the end of the running step.

        The end of an atomic step is written together with the next write.
        """

    def finish_run(
        self,
        outcome: str,
        state: State,
        error: str | None = None,
        traceback: str | None = None,
    ) -> str:
        """Close the run and return the outcome that was written.

        A transient outcome that is the build's third in a row is written as "failed", with an
        error that says so. The state "uninitialized" tells that this process lost its output:
        such a run does not count. `self.error` is the error that was written. `traceback`
        belongs to the error, and comes from `stored_traceback`.
        """
        return self._transaction(
            lambda: self._finish_run(outcome, state, error, traceback)
        )

    def _finish_run(
        self, outcome: str, state: State, error: str | None, traceback: str | None
    ) -> str:
        if self.used_journal and outcome in ("ready", "partial"):
            self._delete_progress()
        if outcome in TRANSIENT_OUTCOMES and state is not State.UNINITIALIZED:
            progressed = self._runs_with_progress()
            failures = 1 + self._failures_in_a_row(progressed)
            made_progress = self.run_id in progressed
            if failures >= MAX_TRANSIENT_FAILURES and not made_progress:
                outcome, error = "failed", repeated_failure(outcome, error)
        self.error = error
        # A driver may not know a subclass of `str`.
        self._close_run(outcome, state, error and str(error), traceback)
        return outcome

    def finish_failed_checks(
        self,
        state: State,
        error: str,
        traceback: str | None,
        recorded_here: LostRuns,
    ) -> str:
        """Close a run whose `checks` failed, and return the outcome that was written.

        The outcome is "failed" if the same checks failed in another process, which all followers
        share. A first failure is "transient". `state` tells what the run left: the run has
        changed nothing, so a database that was ready stays ready.
        """
        assert self.checks is not None  # the caller has set it before `open_run`
        earlier = self._transaction(lambda: self._outcomes(_MAX_FAILED_CHECKS))
        is_second = is_second_failure(earlier, self.checks, recorded_here)
        outcome = "failed" if is_second else "transient"
        return self.finish_run(outcome, state, error, traceback)

    def store_findings(self, keys: Iterable[str], caused: Iterable[str] = ()) -> None:
        """Store keys of findings: the baseline of the run or, at its end, its findings.

        `caused` are those for which a later run has to fail.
        """
        text = json.dumps({"known": sorted(keys), "caused": sorted(caused)})
        self._transaction(lambda: self._store_findings(text))

    @abstractmethod
    def complete_step(self, connection: BaseDatabaseWrapper) -> None:
        """Record the running step as done, in the transaction that is open on `connection`.

        The record and the step's own work are committed together.
        """

    def prune(self, keep: int, needed: AbstractSet[int]) -> None:
        """Delete the oldest runs and their steps, so that about `keep` runs remain.

        Runs in `needed` remain, and runs with the last completion of a step.
        """
        self._transaction(lambda: self._prune(keep, needed))

    def _prune(self, keep: int, needed: AbstractSet[int]) -> None:
        runs = self._retained_runs()
        if len(runs) > keep:
            needed = needed | self._runs_of_last_completions()
            old = runs_to_delete(runs, self.build, keep, needed)
            if old:
                self._delete_runs(old)

    @abstractmethod
    def _transaction(self, work: Callable[[], T]) -> T:
        """Run `work`, whose reads and one write are atomic, and return its result."""

    @abstractmethod
    def _open_runs(self) -> list[OpenRun]:
        """Return the runs without an end, of all builds."""

    @abstractmethod
    def _outcomes(self, limit: int) -> list[RunOutcome]:
        """Return the ends of the build's newest runs, newest first."""

    @abstractmethod
    def _begin_run(self, ends: list[RunEnd], command: str) -> int:
        """Close the runs, insert a new one, and return its id."""

    @abstractmethod
    def _end_runs(self, ends: list[RunEnd]) -> None:
        """Close the runs."""

    @abstractmethod
    def _close_run(
        self, outcome: str, state: State, error: str | None, traceback: str | None
    ) -> None:
        """Write the end of this run and of its last step, and wait until both are on disk."""

    @abstractmethod
    def _store_findings(self, findings: str) -> None:
        """Write the findings of this run, in JSON."""

    @abstractmethod
    def _retained_runs(self) -> list[RetainedRun]:
        """Return all runs of the lock key, newest first."""

    @abstractmethod
    def _runs_of_last_completions(self) -> set[int]:
        """Return the runs with the last completion of each step."""

    @abstractmethod
    def _delete_runs(self, runs: list[int]) -> None:
        """Delete the runs and their steps."""

    def _new_run_params(self, command: str) -> dict[str, Any]:
        """Return the values of a new run's row."""
        return {
            "lock_key": self.lock_key,
            "build": self.build,
            "state": self.state.value,
            "leader": leader_name(),
            "command": command,
            "version": __version__,
            "checks": self.checks,
            "release": self._release,
        }

    def has_update(self) -> bool:
        """Return True if the progress differs from the published one."""
        return self.progress.has_update() or self.schemas != self._published_schemas

    def _run_params(self, state: State | None = None) -> dict[str, Any]:
        """Return the values that an update of the run's row writes.

        `state` is the final state of a run that is being closed.
        """
        state = state or self.state
        finished = 0
        if self.schemas is not None:
            finished = self.expected_schemas - min(
                self.schemas.pending, self.expected_schemas
            )
        percent = self.progress.percent(
            self.done + finished, self.total + self.expected_schemas
        )
        operation = self.progress.operation
        self._published_schemas = self.schemas
        return {
            "run": self.run_id,
            "state": state.value,
            "done": self.done,
            "total": self.total,
            "progress": 100 if state is State.READY else percent,
            "message": self.message,
            "operation": json.dumps(operation) if operation else None,
            "schemas": None if self.schemas is None else json.dumps(self.schemas),
        }


class TableRecorder(BaseRecorder):
    """A recorder that uses the SQL in `base.statements`."""

    #: SQL for the current time, in the format of the tables.
    now_sql: ClassVar[str]
    #: SQL for the process id that identifies the leader; `%(pid)s` is this process's id.
    pid_sql: ClassVar[str]

    @abstractmethod
    def _rows(self, statement: str, params: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Return the rows of a statement from `base.statements`."""

    @property
    def _identity(self) -> dict[str, Any]:
        return {
            "lock_key": self.lock_key,
            "build": self.build,
            "scope": journal_scope(self.lock_key, ""),
        }

    def complete_step(self, connection: BaseDatabaseWrapper) -> None:
        with connection.cursor() as cursor:
            params = [DONE, self.run_id, self.done + 1]
            cursor.execute(self._complete_step_sql(), params)
            if cursor.rowcount != 1:
                raise InitializationFailed(
                    f"The row of {STEP_TABLE} in which the step is to be recorded is gone."
                )

    def _complete_step_sql(self) -> str:
        """Return the statement that completes a step, in SQL for Django's connection."""
        return (
            f"UPDATE {STEP_TABLE} SET outcome = %s, finished_at = {self.now_sql}"
            " WHERE run_id = %s AND position = %s"
        )

    def _open_runs(self) -> list[OpenRun]:
        return [OpenRun(*row) for row in self._rows(OPEN_RUNS, self._identity)]

    def _outcomes(self, limit: int) -> list[RunOutcome]:
        rows = self._rows(OUTCOMES, {**self._identity, "limit": limit})
        return [RunOutcome(*row) for row in rows]

    def _end_statements(
        self, ends: list[RunEnd]
    ) -> list[tuple[str, Mapping[str, Any]]]:
        statement = CLOSE_LEFT_OPEN.format(now=self.now_sql)
        return [(statement, end._asdict()) for end in ends]

    def _insert_statement(self, command: str) -> tuple[str, Mapping[str, Any]]:
        params = {**self._new_run_params(command), "pid": os.getpid()}
        return INSERT_RUN.format(now=self.now_sql, pid=self.pid_sql), params

    def _store_findings(self, findings: str) -> None:
        self._rows(STORE_FINDINGS, {"run": self.run_id, "findings": findings})

    def _retained_runs(self) -> list[RetainedRun]:
        rows = self._rows(RETAINED_RUNS, self._identity)
        return [
            RetainedRun(run, build, outcome, bool(is_open))
            for run, build, outcome, is_open in rows
        ]

    def _runs_with_progress(self) -> set[int]:
        if not self._has_journal():
            return set()
        return {run for (run,) in self._rows(RUNS_WITH_PROGRESS, self._identity)}

    def _delete_progress(self) -> None:
        if self._has_journal():
            self._rows(DELETE_PROGRESS, self._identity)

    @abstractmethod
    def _has_journal(self) -> bool:
        """Return True if the table of the journal exists."""

    def _runs_of_last_completions(self) -> set[int]:
        return {run for (run,) in self._rows(LAST_COMPLETIONS, self._identity)}
