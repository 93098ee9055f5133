"""The status of a database, and its details for a person who watches a run.

Reads through a `BaseReader`. Writes nothing, takes no lock, and waits for the database server
only if its caller passes a deadline that allows it: `get_status` passes `Deadline(0)`.

`StatusDetail.as_json` is the object of one database. The command adds the history to it; the
status with the token adds the steps, in `serving.http.payloads`, which also builds all public
bodies.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

from django_safe_init.backends import get_backend
from django_safe_init.backends.base.context import Context
from django_safe_init.backends.base.reader import BaseReader
from django_safe_init.conf import Settings, get_settings
from django_safe_init.core.build import Build, current_build
from django_safe_init.core.databases import check_alias
from django_safe_init.core.deadline import Deadline
from django_safe_init.core.half_done import describe_half_done
from django_safe_init.core.records import (
    Activity,
    ConnectionEnded,
    LeaderSnapshot,
    RunRow,
    Snapshot,
    StepRow,
    TablesLocked,
    TablesUnreadable,
)
from django_safe_init.core.schemas import (
    NONE_BLOCKED,
    NONE_FAILED,
    BlockedTenants,
    FailedSchemas,
    SchemaProgress,
    SchemaSummary,
    TenantStatus,
)
from django_safe_init.core.states import State
from django_safe_init.core.text import bounded_lines, name_some, one_line, wrap
from django_safe_init.exceptions import (
    ConfigurationError,
    DatabaseUnreachable,
    WaitTimeout,
)

logger = logging.getLogger("django_safe_init")

T = TypeVar("T")

#: More steps than a terminal has lines.
MAX_STEPS = 200
#: The time that `poll_interval` allows for each query: at most four queries a second.
SECONDS_PER_QUERY = 0.25
#: More steps than a run has.
_ALL_STEPS = 1_000_000
#: The highest id that a column of the tables can have.
_MAX_ID = 2**63 - 1


@dataclass(frozen=True)
class Status:
    """The status of one database. Ages and durations are in seconds, by the database's clock."""

    database: str
    #: The state of the newest run, corrected by the recorded migrations and the leader lock.
    state: State
    #: Per cent, 0 to 100.
    progress: int
    #: The current activity, or the reason for the state: one line, and a line for each command.
    message: str
    #: The newest run, or None.
    run: RunRow | None = None
    #: True while a process holds the leader lock.
    led: bool = False
    #: Migrations, then steps, that this build defines and the database has not recorded.
    pending: tuple[str, ...] = field(default=())
    #: Recorded migrations that this build does not define, of apps with pending ones: the
    #: database has followed another branch.
    unknown: tuple[str, ...] = field(default=())
    error: str | None = None
    #: The numbers of the tenants' schemas. None without tenants, and until the shared schema is
    #: done.
    schemas: SchemaProgress | None = None
    #: The tenants' schemas that lack a migration, if they were read.
    behind: tuple[str, ...] = field(default=())
    #: The schemas among them in which a run of this build has failed.
    failed_schemas: FailedSchemas = NONE_FAILED
    #: The state for a tenant whose schema is behind, while the shared schema suffices.
    tenant_state: State = State.READY

    @classmethod
    def unreachable(cls, database: str, error: str | None = None) -> Status:
        """Return the status of a database that has not answered, or not yet."""
        message = "waiting for the server"
        return cls(database, State.CONNECTING, 0, message, error=error)

    @classmethod
    def private(cls, database: str) -> Status:
        """Return the status of a database that only this process can reach: always ready."""
        message = "no other process can reach this database"
        return cls(database, State.READY, 100, message)

    @classmethod
    def failed(cls, database: str, error: str) -> Status:
        """Return the status of a database that cannot be read because of `error`."""
        return cls(database, State.ERROR, 0, error, error=error)

    @property
    def ready(self) -> bool:
        """True if this build may serve: everything it defines is done.

        If the shared schema suffices, tenants' schemas may be behind.
        """
        return self.state is State.READY

    @property
    def complete(self) -> bool:
        """True if it is ready, and the schemas of all tenants are up to date."""
        return self.ready and not self.behind

    @property
    def for_tenant(self) -> Status:
        """The status for a tenant whose schema is behind."""
        run = self.run
        progress = run.progress if run is not None and run.open else 0
        if not self.behind:
            return self
        return replace(self, state=self.tenant_state, progress=progress)

    def as_json(self) -> dict[str, Any]:
        """Return all fields as values for JSON."""
        return {
            "database": self.database,
            "state": self.state.value,
            "ready": self.ready,
            "progress": self.progress,
            "message": self.message,
            "led": self.led,
            "run": self.run.as_json() if self.run else None,
            "pending": list(self.pending),
            "unknown": list(self.unknown),
            "error": self.error,
            "schemas": self._schemas_as_json(),
        }

    def _schemas_as_json(self) -> dict[str, Any] | None:
        if self.schemas is None:
            return None
        failures = [each._asdict() for each in self.failed_schemas.first]
        return {**self.schemas.as_json(), "failures": failures}


@dataclass(frozen=True)
class StatusDetail:
    """A status with the steps of its run and the activity of its leader, as of one moment."""

    status: Status
    #: The newest steps of the run, in the order in which they started.
    steps: tuple[StepRow, ...] = ()
    #: The database role of the leader.
    role: str | None = None
    #: Connected followers. A follower that polls with short connections is not counted.
    followers: int | None = None
    #: The leader's statement, and the sessions that block it.
    activity: Activity | None = None
    #: The earlier duration of the pending steps, in seconds; None unless all were timed.
    remaining_seconds: float | None = None
    #: The reason why details are missing or old; empty if they are complete.
    note: str = ""
    #: True if this database role may not read the steps.
    steps_unreadable: bool = False
    #: The tenants whose requests have to wait, while the shared schema suffices.
    blocked: BlockedTenants = NONE_BLOCKED
    #: When it was read, on this process's monotonic clock.
    read_at: float = field(default_factory=time.monotonic)

    @property
    def running(self) -> bool:
        """True while a leader works on the run."""
        run = self.status.run
        return self.status.led and run is not None and run.open

    @property
    def elapsed(self) -> float:
        """Seconds since it was read."""
        return time.monotonic() - self.read_at

    def as_json(self) -> dict[str, Any]:
        """Return the keys that `safe_init_status --json` and the status with the token share."""
        blockers = self.activity.blockers if self.activity else ()
        return {
            **self.status.as_json(),
            "activity": str(self.activity or "") or None,
            "blockers": [asdict(blocker) for blocker in blockers],
        }


def get_status(database: str = "default") -> Status:
    """Return the current status of a database, without a lock and without waiting.

    Raises `DatabaseUnreachable`, `WaitTimeout` (all connections are in use),
    `ConfigurationError` or `UnsupportedEngine`.
    """
    reader = open_reader(database, get_settings(), Deadline(0))
    with closing(reader):
        return read_status(database, reader)


def is_ready(database: str = "default") -> bool:
    """Return True if everything this build defines is done. Raises as `get_status` does."""
    return get_status(database).ready


def open_reader(
    database: str,
    settings: Settings,
    deadline: Deadline,
    build: Build | None = None,
    report: Callable[[str], None] = logger.info,
) -> BaseReader:
    """Return a reader for the alias, which the caller closes.

    `report` is called with the reason for each wait for the database server.
    """
    check_alias(database)
    context = Context(database, build or current_build(), settings, deadline, report)
    return get_backend(context).reader()


def read_status(database: str, reader: BaseReader) -> Status:
    """Return the status of the reader's database, also while a migration locks our tables.

    Raises `DatabaseUnreachable` when the connection is lost.
    """
    try:
        return _read_status(database, reader)
    except ConnectionEnded as exc:
        raise _connection_lost(database, exc) from exc


def _read_status(database: str, reader: BaseReader) -> Status:
    try:
        snapshot = reader.read()
    except TablesLocked:
        led = reader.leader_pid() is not None
        message = "the status tables are locked, probably by a migration"
        if not led:
            message = wrap("waiting for a locked table. ", reader.table_lock_holders())
        return Status(database, State.MIGRATING, progress=0, message=message, led=led)
    return _with_holder(describe(database, snapshot), snapshot, reader)


def _with_holder(status: Status, snapshot: Snapshot, reader: BaseReader) -> Status:
    """Add the session that holds the leader lock to the message, if no open run names it."""
    newest = LeaderSnapshot(snapshot.latest, snapshot.leader_pid)
    ended = status.ready or status.state is State.ERROR
    if ended or newest.leader_pid is None or newest.names_leader:
        return status
    holder = reader.leader_session()
    if not holder:
        return status
    message = f"{status.message}; the leader lock is held by {holder}"
    return replace(status, message=message)


def _connection_lost(database: str, error: ConnectionEnded) -> DatabaseUnreachable:
    return DatabaseUnreachable(
        f"The connection to {database!r} ended: {one_line(error)}"
    )


def read_history(database: str, reader: BaseReader, count: int) -> list[RunRow]:
    """Return the newest `count` runs, newest first; none while a migration locks our tables.

    Raises `DatabaseUnreachable` when the connection is lost.
    """
    try:
        return reader.history(count)
    except TablesLocked:
        return []
    except ConnectionEnded as exc:
        raise _connection_lost(database, exc) from exc


def read_half_done(
    database: str, reader: BaseReader, settings: Settings, error: str = ""
) -> list[str]:
    """Return a line for each migration that is half done; none if the journal is unreadable.

    `error` is why the last run has failed. Raises `DatabaseUnreachable` when the connection is
    lost.
    """
    try:
        return describe_half_done(reader.journal(), settings.unfinished, error)
    except (TablesLocked, TablesUnreadable):
        return []
    except ConnectionEnded as exc:
        raise _connection_lost(database, exc) from exc


def read_schemas(database: str, reader: BaseReader) -> SchemaSummary | None:
    """Return the schemas of tenants; None without tenants.

    Raises `WaitTimeout` while a migration locks the tables, and `DatabaseUnreachable` when the
    connection is lost.
    """
    return _about_tenants(database, reader, reader.schemas)


def read_tenants(database: str, reader: BaseReader) -> list[TenantStatus]:
    """Return the status of each tenant's schema, by name. Raises as `read_schemas` does."""
    return _about_tenants(database, reader, reader.tenants)


def read_tenant(database: str, reader: BaseReader, schema: str) -> TenantStatus:
    """Return the status of a tenant's schema, with the migrations that it lacks.

    Raises `ConfigurationError` for a name that no tenant has, and as `read_schemas` does.
    """
    found = read_tenants(database, reader)
    for each in found:
        if each.schema == schema:
            lacking = _about_tenants(database, reader, lambda: reader.lacking(schema))
            return each._replace(pending=lacking)
    known = f"the tenants are {name_some([each.schema for each in found])}"
    raise ConfigurationError(
        f"No tenant of {database!r} has the schema {schema!r}: "
        f"{known if found else 'it has no tenants'}. List them with --schemas."
    )


def _about_tenants(database: str, reader: BaseReader, read: Callable[[], T]) -> T:
    try:
        return read()
    except TablesLocked as exc:
        start = f"The tenants of {database!r} cannot be read: "
        raise WaitTimeout(wrap(start, reader.table_lock_holders())) from exc
    except ConnectionEnded as exc:
        raise _connection_lost(database, exc) from exc


def with_blocked(detail: StatusDetail, reader: BaseReader) -> StatusDetail:
    """Return the detail with the tenants whose requests have to wait."""
    status = detail.status
    if not status.ready or not status.behind:
        return detail
    try:
        return replace(detail, blocked=reader.blocked(status.behind))
    except ConnectionEnded as exc:
        raise _connection_lost(status.database, exc) from exc


@dataclass(frozen=True)
class RunReport:
    """A run with its steps and the traceback of its error."""

    database: str
    run: RunRow
    #: All steps of the run, in the order in which they started.
    steps: tuple[StepRow, ...]
    #: Printable lines; None if none was recorded. It may quote rows of the project, so only a
    #: person with access to the database sees it.
    traceback: str | None
    #: The reason why the steps are missing; empty if they are complete.
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the run and its steps for JSON, without the traceback."""
        return {
            "database": self.database,
            "run": self.run.as_json(),
            "steps": [step._asdict() for step in self.steps],
        }


def read_run(database: str, reader: BaseReader, number: int) -> RunReport:
    """Return a run of any build with its steps.

    Raises `ConfigurationError` for an unknown number, `WaitTimeout` while a migration locks the
    tables, and `DatabaseUnreachable` when the connection is lost.
    """
    try:
        run = reader.find_run(number) if 0 < number <= _MAX_ID else None
        if run is None:
            raise _unknown_run(database, reader, number)
        traceback = reader.traceback(run)
        steps, note = _all_steps(run, reader)
    except TablesLocked as exc:
        start = f"Run {number} cannot be read for database {database!r}: "
        raise WaitTimeout(wrap(start, reader.table_lock_holders())) from exc
    except ConnectionEnded as exc:
        raise _connection_lost(database, exc) from exc
    lines = None if traceback is None else bounded_lines(str(traceback))
    return RunReport(database, run, steps, lines, note)


def _unknown_run(database: str, reader: BaseReader, number: int) -> ConfigurationError:
    newest = reader.history(1)
    known = f"the newest is run {newest[0].id}" if newest else "no run is recorded"
    return ConfigurationError(
        f"Run {number} cannot be shown for database {database!r}: {known}. "
        "List the runs with --history N."
    )


def _all_steps(run: RunRow, reader: BaseReader) -> tuple[tuple[StepRow, ...], str]:
    try:
        return reader.run_detail(run, _ALL_STEPS).steps, ""
    except TablesUnreadable as exc:
        return (), one_line(exc)


def describe(database: str, snapshot: Snapshot) -> Status:
    """Return the status that a snapshot of the tables stands for."""
    state, run = snapshot.state, snapshot.latest
    error, message = None, _message(state, snapshot)
    if state is State.ERROR:
        error = message = _error(snapshot)
    elif state is State.UNINITIALIZED and _is_transient_failure(snapshot):
        error = _error(snapshot)
        message = f"{message}; the last run failed and can be repeated: {error}"
    return Status(
        database=database,
        state=state,
        progress=_progress(state, run),
        message=message,
        run=run,
        led=snapshot.led,
        pending=snapshot.missing,
        unknown=snapshot.unknown,
        error=error,
        schemas=snapshot.schema_progress,
        behind=snapshot.behind,
        failed_schemas=snapshot.failed_schemas,
        tenant_state=snapshot._replace(shared_suffices=False).state,
    )


def _progress(state: State, run: RunRow | None) -> int:
    if state is State.READY:
        return 100
    return run.progress if run and run.open else 0


def _is_transient_failure(snapshot: Snapshot) -> bool:
    """Return True if the newest run is this build's, and another process may repeat it."""
    own, latest = snapshot.own, snapshot.latest
    if own is None or latest is None or own.identity != latest.identity:
        return False
    return own.outcome == "transient"


def _error(snapshot: Snapshot) -> str:
    run = snapshot.latest
    assert run is not None  # the error belongs to this run
    if run.open:
        return f"the {run.leader_title} died in {run.doing or run.state}"
    return run.error or f"run {run.id} failed"


def _message(state: State, snapshot: Snapshot) -> str:
    run = snapshot.latest
    behind = snapshot.schemas.sentence if snapshot.schemas else ""
    if state is State.READY:
        if behind:
            return f"the shared schema is ready; {behind}"
        return "everything this build knows is done"
    if state is State.UNINITIALIZED:
        reason = f": {behind}" if behind else _unknown_migrations(snapshot)
        return f"not initialized for this build{reason}"
    if run is None or not run.open:
        return "a leader is starting"
    if run.schemas is not None:
        return f"{state} {run.doing}"
    step = (
        f" {min(run.done + 1, run.total)}/{run.total} {run.doing}" if run.total else ""
    )
    return f"{state}{step or ' ' + run.doing}".strip()


def _unknown_migrations(snapshot: Snapshot) -> str:
    if not snapshot.unknown:
        return ""
    return f", which does not know {name_some(snapshot.unknown)}"


def read_detail(
    database: str, reader: BaseReader, before: StatusDetail | None
) -> StatusDetail:
    """Return the status with its details, over several queries and without a transaction.

    While a migration locks our tables, the details that were read `before` are kept, with a
    note. Raises `DatabaseUnreachable` when the connection is lost.
    """
    status = read_status(database, reader)
    if status.run is None:
        return carry_forward(status, before)
    steps_unreadable = before is not None and before.steps_unreadable
    try:
        return _add_details(status, status.run, reader, steps_unreadable)
    except TablesLocked as exc:
        return carry_forward(replace(status, message=one_line(exc)), before)
    except TablesUnreadable as exc:
        return StatusDetail(status, note=one_line(exc), steps_unreadable=True)
    except ConnectionEnded as exc:
        raise _connection_lost(database, exc) from exc


def _add_details(
    status: Status, run: RunRow, reader: BaseReader, steps_unreadable: bool
) -> StatusDetail:
    found = reader.run_detail(run, None if steps_unreadable else MAX_STEPS)
    detail = StatusDetail(
        status,
        found.steps,
        found.role,
        found.followers,
        steps_unreadable=steps_unreadable,
    )
    return replace(detail, activity=reader.activity()) if detail.running else detail


def carry_forward(status: Status, before: StatusDetail | None) -> StatusDetail:
    """Return the status without details, or `before` for a run that cannot be read now."""
    if before is None or not before.running or status.state is not State.MIGRATING:
        return StatusDetail(status)
    known = replace(before.status, led=status.led)
    return replace(before, status=known, note=status.message)


def with_estimate(detail: StatusDetail, reader: BaseReader) -> StatusDetail:
    """Return the detail with the remaining seconds, if earlier runs timed the same steps."""
    run, names = detail.status.run, detail.status.pending
    if run is None or not detail.running or not names:
        return detail
    try:
        return replace(detail, remaining_seconds=reader.seconds_left(run, names))
    except (TablesLocked, TablesUnreadable, ConnectionEnded):
        return detail


def poll_interval(detail: StatusDetail) -> float:
    """Return the seconds until the next `read_detail`, by the queries that it makes."""
    queries = 3  # also before the table of runs exists, which each read checks
    if detail.activity is not None:
        queries += 2 if detail.activity.blockers else 1
    return queries * SECONDS_PER_QUERY
