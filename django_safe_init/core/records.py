"""Hold the values read from the status tables and the leader lock.

A database is ready by sets of names: every migration that the build defines is recorded in
`django_migrations`, and no run of the same build is open or failed. Runs only describe.
"""

from __future__ import annotations

import json
import math
import os
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

from django_safe_init.core.progress import OperationProgress
from django_safe_init.core.schemas import (
    NONE_FAILED,
    FailedSchemas,
    SchemaProgress,
    SchemaSummary,
)
from django_safe_init.core.states import State
from django_safe_init.core.text import (
    MAX_ERROR_LENGTH,
    name_some,
    printable,
    shorten,
    stored_hint,
)

RUN_TABLE = "django_safe_init_run"
STEP_TABLE = "django_safe_init_step"
#: The journal of the operations of migrations that are half done.
OPERATION_TABLE = "django_safe_init_operation"
#: Django's table of applied migrations in this package's SQL. A project may name it otherwise.
MIGRATION_TABLE = "django_migrations"

#: The outcomes of a run.
OUTCOMES = ("ready", "partial", "failed", "interrupted", "transient", "abandoned")
#: Outcomes after which another process tries again.
TRANSIENT_OUTCOMES = ("interrupted", "transient", "abandoned")
#: The value of the column `checks` after system checks that passed. After others, it holds the
#: identifiers of their errors; it is NULL if no check ran.
CHECKS_PASSED = "passed"
#: This many transient outcomes of one build in a row are a failure.
MAX_TRANSIENT_FAILURES = 3


class TablesLocked(Exception):
    """A migration locks the status tables, so they cannot be read."""


class TablesUnreadable(Exception):
    """A table does not exist, or the role may not read it."""


class ConnectionEnded(Exception):
    """The connection was lost during a read."""


def run_result(outcome: str | None) -> str:
    """Return the outcome of a run, or "open" while the run has none."""
    return outcome or "open"


class RunRow(NamedTuple):
    """A row of the run table. Ages are in seconds, by the database's clock."""

    id: int
    build: str
    state: State
    outcome: str | None
    done: int
    total: int
    progress: int
    message: str
    leader: str
    backend_pid: int
    command: str
    started_at: str
    finished_at: str | None
    error: str | None
    age_seconds: float
    silence_seconds: float
    duration_seconds: float
    item_done: int | None = None
    item_total: int | None = None
    item_message: str | None = None
    #: The running operation, if the running migration is not one transaction.
    operation: OperationProgress | None = None
    #: `CHECKS_PASSED`, the identifiers of the errors that system checks found, or None.
    checks: str | None = None
    #: The release whose code ran it; None without one. Not in the JSON of a status.
    release: str | None = None
    #: The tenants' schemas, once the shared schema is done and validated; None without tenants.
    schemas: SchemaProgress | None = None

    @property
    def identity(self) -> tuple[int, str]:
        """The id and the start: a failover that loses the newest run gives its id again."""
        return self.id, self.started_at

    def is_newer_than(self, other: RunRow) -> bool:
        """Return True if the run is another one than `other`, and began later."""
        if self.identity == other.identity:
            return False
        return self.id >= other.id or self.started_at > other.started_at

    @property
    def items(self) -> str:
        """The progress of the running step's loop, as text; empty if it reports none."""
        if self.item_done is None:
            return ""
        total = f"/{self.item_total}" if self.item_total else ""
        return f"{self.item_message or ''} {self.item_done}{total}".strip()

    @property
    def doing(self) -> str:
        """The message of the run, with the progress of the running step."""
        return f"{self.message}: {self.items}" if self.items else self.message

    @property
    def leader_title(self) -> str:
        """The leader, named as in every text: `leader HOST:PID of run N`."""
        return f"leader {self.leader} of run {self.id}"

    @property
    def open(self) -> bool:
        """True until the run is closed: its leader works, or died."""
        return self.outcome is None

    @property
    def result(self) -> str:
        """The outcome, or "open" while the run has none."""
        return run_result(self.outcome)

    @property
    def needs_no_checks(self) -> bool:
        """True if the run began after its system checks had passed, and did not succeed.

        The checks belong to the database as it was before. The leader may have left it
        half-migrated, and a check that reads the database may refuse it in that condition.
        """
        has_succeeded = self.outcome in ("ready", "partial")
        return self.checks == CHECKS_PASSED and not has_succeeded

    def as_json(self) -> dict[str, Any]:
        """Return the fields of the published JSON."""
        values = {**self._asdict(), "state": self.state.value}
        del values["checks"], values["release"]
        if self.operation is not None:
            values["operation"] = self.operation._asdict()
        if self.schemas is not None:
            values["schemas"] = self.schemas.as_json()
        return values


#: Defaults of columns that the tables of an older version of this package lack.
_RUN_DEFAULTS: dict[str, Any] = {
    "outcome": None,
    "done": 0,
    "total": 0,
    "progress": 0,
    "message": "",
    "leader": "",
    "backend_pid": 0,
    "command": "",
    "finished_at": None,
    "error": None,
}


def run_row(values: dict[str, Any] | None) -> RunRow | None:
    """Return the run of a row that any version of this package has written."""
    if values is None:
        return None
    known = {**_RUN_DEFAULTS, **values}
    row = {name: known[name] for name in RunRow._fields if name in known}
    row = {name: clean_value(name, value) for name, value in row.items()}
    return RunRow(**{**row, "state": _state(known)})


_SECONDS = ("age_seconds", "silence_seconds", "duration_seconds", "seconds")
_INTEGERS = ("id", "done", "total", "progress", "backend_pid", "position")
_OPTIONAL_INTEGERS = ("item_done", "item_total")
_OPTIONAL_TEXTS = (
    "outcome",
    "finished_at",
    "error",
    "item_message",
    "checks",
    "release",
)


def clean_value(name: str, value: Any) -> Any:
    """Return a value of the tables with the column's type; any program may have written it.

    A value of another type becomes 0, an empty text or None, and a text is one printable line.
    """
    if name in _SECONDS:
        return _finite(value)
    if name == "operation":
        return OperationProgress.from_json(value)
    if name == "schemas":
        return SchemaProgress.from_json(value)
    if name in _INTEGERS or name in _OPTIONAL_INTEGERS:
        is_number = isinstance(value, int)
        return value if is_number else (0 if name in _INTEGERS else None)
    if name == "backwards":
        return bool(value)
    if value is None:
        return None if name in _OPTIONAL_TEXTS else ""
    if name == "error":
        return stored_hint(str(value))
    return shorten(str(value), MAX_ERROR_LENGTH)


def _finite(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return 0.0
    return number if math.isfinite(number) else 0.0


def _state(values: dict[str, Any]) -> State:
    try:
        return State(values["state"])
    except (KeyError, ValueError):  # a newer version has written it
        return State.MIGRATING if values["outcome"] is None else State.ERROR


#: Stands for a prepared transaction, which holds its locks without a server process. PostgreSQL
#: itself reports 0, which on SQLite is a leader in another container.
PREPARED_PID = -1


class LeaderSnapshot(NamedTuple):
    """The leader and the newest run at one moment."""

    latest: RunRow | None
    leader_pid: int | None

    @property
    def names_leader(self) -> bool:
        """True if the newest run is open and its leader holds the lock.

        A process id of 0 is unknown: an old version wrote the run, or SQLite's leader runs in
        another container.
        """
        run = self.latest
        if run is None or not run.open:
            return False
        if self.leader_pid == PREPARED_PID:
            return False
        return run.backend_pid == self.leader_pid or not (
            run.backend_pid and self.leader_pid
        )

    def at_work_for(self, build: str) -> bool:
        """Return True if a living leader has an open run of the build."""
        run = self.latest
        if run is None or self.leader_pid is None:
            return False
        return run.open and run.build == build


class Snapshot(NamedTuple):
    """The status of a database at one moment, consistent in itself."""

    #: Names the build defines and the database has not recorded: migrations, sorted, then steps.
    missing: tuple[str, ...]
    #: The newest run, of any build.
    latest: RunRow | None
    #: The newest run of this build.
    own: RunRow | None
    #: A run of this build has ended ready.
    finished: bool
    #: A run that is newer than `own` has ended ready.
    superseded: bool
    #: The holder of the leader lock: a server process of PostgreSQL, on SQLite the leader.
    leader_pid: int | None
    #: Recorded migrations that this build does not define, of apps with missing ones, sorted.
    unknown: tuple[str, ...] = ()
    #: The release of the newest run, of any build and with any outcome, that ended.
    release: str | None = None
    #: The schemas of tenants. None without tenants, while the shared schema is not done, and
    #: while a run of this build is open, unless the shared schema suffices.
    schemas: SchemaSummary | None = None
    #: The schemas in which the open run of this build has failed.
    failed: FailedSchemas = NONE_FAILED
    #: True if readiness is about the shared schema, and not about tenants' schemas.
    shared_suffices: bool = False

    @property
    def ready(self) -> bool:
        """True if everything this build defines is done, and no run of it is open or failed.

        With tenants also in their schemas, unless the shared schema suffices.
        """
        if self.shared_suffices and self.shared_done:
            return True
        return self._own_ready and not self.behind

    @property
    def behind(self) -> tuple[str, ...]:
        """The schemas of tenants that lack a migration of this build."""
        return self.schemas.behind if self.schemas else ()

    @property
    def schema_progress(self) -> SchemaProgress | None:
        """The numbers of the tenants' schemas; None without tenants, or if nothing is known."""
        if self.schemas is not None:
            return self.schemas.progress
        own = self.own
        return own.schemas if own is not None and own.open else None

    @property
    def failed_schemas(self) -> FailedSchemas:
        """The tenants' schemas that a run of this build has tried in vain."""
        return self.schemas.failed if self.schemas else self.failed

    @property
    def shared_done(self) -> bool:
        """True if a run of this build has done and validated the shared schema.

        The run may go on in the schemas of tenants, or have failed there.
        """
        has_gone_on = self.own is not None and self.own.schemas is not None
        return not self.missing and (has_gone_on or self._own_ready)

    @property
    def _own_ready(self) -> bool:
        own = self.own
        if self.missing or (own is not None and own.open):
            return False
        if own is None or own.outcome != "failed" or self.superseded:
            return True
        # Its system checks failed before it began, and the database was ready.
        return own.state is State.READY

    @property
    def initialized(self) -> bool:
        """True if it is ready, and `post_migrate` and validation have run for this build."""
        return self.ready and self.finished and not self.behind

    def is_released(self, release: str) -> bool:
        """Return True if this build's newest run ended ready, in this release.

        No run of another release has ended since, however it ended: its receivers of
        `post_migrate` may have replaced the objects that this release had installed. If the
        shared schema suffices, a run that has done it counts before its end.
        """
        own = self.own
        if own is None or not self.own_suffices:
            return False
        newest = own.release if own.open else self.release
        return own.release == newest == release

    @property
    def own_suffices(self) -> bool:
        """True if this build's newest run ended ready, or has done all that readiness needs."""
        own = self.own
        if own is None:
            return False
        suffices = self.shared_suffices and own.schemas is not None
        return own.outcome == "ready" or suffices

    @property
    def led(self) -> bool:
        """True if a process holds the leader lock."""
        return self.leader_pid is not None

    @property
    def state(self) -> State:
        """The state of the newest run, corrected by the records and the leader lock."""
        if self.ready:
            return State.READY
        if self.latest is None:
            return State.CHECKING_SCHEMA if self.led else State.UNINITIALIZED
        if self.latest.open:
            return self.latest.state if self.led else State.ERROR
        if self.latest.outcome == "failed":
            return State.ERROR
        return State.CHECKING_SCHEMA if self.led else State.UNINITIALIZED


class PreviousFindings(NamedTuple):
    """The findings that an earlier run left or, if it did not finish, began with.

    They are keys from `core.findings.finding_key`.
    """

    #: True if the run ended ready, or finished the part that it was asked for.
    finished: bool
    #: The findings that the run did not cause.
    keys: tuple[str, ...]
    #: The findings that a run has caused, and that no run has been failed for yet.
    caused: tuple[str, ...] = ()


class StepRow(NamedTuple):
    """A row of the step table."""

    position: int
    kind: str
    name: str
    backwards: bool
    outcome: str | None
    seconds: float


def step_row(values: dict[str, Any]) -> StepRow:
    """Return the step of a row that any version of this package has written."""
    known = {"backwards": False, "outcome": None, **values}
    return StepRow(*(clean_value(name, known[name]) for name in StepRow._fields))


class RunDetail(NamedTuple):
    """The steps of a run, and the sessions that belong to it."""

    #: Its newest steps, in their order.
    steps: tuple[StepRow, ...] = ()
    #: The database role of the leader.
    role: str | None = None
    #: The number of connected followers.
    followers: int | None = None


def same_apps(unknown: Iterable[str], missing: Iterable[str]) -> tuple[str, ...]:
    """Return the unknown names that belong to apps with missing ones, sorted.

    An app that this build no longer has leaves its migrations behind, which is normal.
    """
    apps = {name.split(".")[0] for name in missing}
    names = (name for name in unknown if name.split(".")[0] in apps)
    return tuple(sorted(map(printable, names)))


@dataclass(frozen=True)
class Blocker:
    """A session, or a prepared transaction, that a leader's statement waits for."""

    #: The server process; `PREPARED_PID` for a prepared transaction.
    pid: int
    role: str
    application: str
    state: str
    seconds: float
    query: str
    #: The client's address; None on the same host, or if this role may not see it.
    client: str | None = None

    def __str__(self) -> str:
        if self.pid == PREPARED_PID:
            who, name = "a prepared transaction", ""
        else:
            who, name = f"pid {self.pid}", f", {self.application or 'no name'}"
        where = f", from {self.client}" if self.client else ""
        return printable(
            f"{who} (role {self.role}{name}{where}, "
            f"{self.state} for {self.seconds:.0f} s: {shorten(self.query)})"
        )


@dataclass(frozen=True)
class Activity:
    """A leader's current statement; another role sees less of it."""

    #: The running statement, for how many seconds it has run, and its server process.
    query: str | None
    seconds: float
    pid: int | None
    #: A statement is running and does not wait for a lock.
    progressing: bool
    blockers: tuple[Blocker, ...]
    #: The command that ends the first blocker; empty without a blocker.
    remedy: str = ""

    def __str__(self) -> str:
        if self.query is None:
            return ""
        text = f"running for {self.seconds:.0f} s: {shorten(self.query)}"
        if self.blockers:
            text += f"; blocked by {name_some(self.blockers)}"
        return text


def leader_name(pid: int | None = None) -> str:
    """Return the name `HOST:PID` of a process of this machine as a leader; None for this one.

    Every text names a leader so. A "backend" is a session of PostgreSQL.
    """
    return f"{socket.gethostname()}:{os.getpid() if pid is None else pid}"


def session_name(leader: str) -> str:
    """Return the application name of a leader's session until its run is open.

    It has at most 63 bytes, as PostgreSQL demands, so a long host name is cut.
    """
    host, _, pid = leader.rpartition(":")
    return f"safe_init {host[: 52 - len(pid)]}:{pid}"


def leader_of(session_name: str) -> str:
    """Return the leader that an application name names; empty for any other session."""
    found = re.fullmatch(r"safe_init (\S+:\d+)", session_name)
    return found[1] if found else ""


@dataclass
class LostRuns:
    """The runs that this process has led and lost, and the reason of the last loss.

    A run is known by its id and its leader: after a failover that lost the newest transactions,
    another leader's run may have the id of a lost run.
    """

    runs: list[int] = field(default_factory=list)
    reason: str = ""
    leader: str = field(default_factory=leader_name)

    def include(self, run: int, leader: str) -> bool:
        """Return True if this process has led and lost the run."""
        return leader == self.leader and run in self.runs


@dataclass(frozen=True)
class InterruptedStep:
    """A non-atomic migration or step that its leader started and did not finish."""

    name: str
    backwards: bool
    #: Indexes that the migration names and that existed before it started: never dropped.
    indexes_before: frozenset[str]
    #: The run in which it started.
    run: int
    #: True if its operations are in the journal, which tells more.
    has_journal: bool = False

    @classmethod
    def from_row(
        cls, run: int, name: str, backwards: bool, detail: Any
    ) -> InterruptedStep:
        """Return the step of an open row; `detail` was recorded with its start."""
        found = detail or {}
        before = frozenset(found.get("indexes_before", ()))
        journal = bool(found.get("journal"))
        return cls(name, bool(backwards), before, run, journal)


class EntryState(str, Enum):
    """The state of an operation, or of one statement of it, in the journal."""

    #: It began outside of a transaction, and its end was not recorded.
    STARTED = "started"
    DONE = "done"
    #: It was done, and was being undone outside of a transaction.
    UNDOING = "undoing"


class EntryKind(str, Enum):
    """The kind of a row of the journal."""

    #: The names of all operations of the migration.
    MIGRATION = "migration"
    OPERATION = "operation"
    #: One statement of a list of `RunSQL`, whose other statements follow.
    STATEMENT = "statement"
    #: SQL that the schema editor postponed to the end of the migration.
    DEFERRED = "deferred"
    #: The position of a loop over batches.
    BATCH = "batch"
    #: The evidence that a run has finished an operation. It outlives the journal.
    PROGRESS = "progress"


class JournalEntry(NamedTuple):
    """A row of the journal of one migration."""

    migration: str
    #: True if the migration was recorded as applied when the journal began.
    recorded: bool
    kind: EntryKind
    #: The number of the operation, from 1; the rank of deferred SQL.
    position: int
    #: The number of the statement in the operation, from 1; 0 for the whole operation.
    part: int
    state: EntryState
    #: A digest of the operation or the statement.
    fingerprint: str
    detail: Any
    #: The run that wrote it.
    run: int

    @classmethod
    def from_row(cls, row: Iterable[Any]) -> JournalEntry:
        """Return the entry of a row; its detail is JSON."""
        migration, recorded, kind, position, part, state, fingerprint, detail, run = row
        return cls(
            str(migration),
            bool(recorded),
            EntryKind(kind),
            int(position),
            int(part),
            EntryState(state),
            str(fingerprint),
            json.loads(detail) if detail else None,
            int(run),
        )
