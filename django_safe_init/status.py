"""The state of a database, for programs and people outside: `get_status` and `is_ready`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from django_safe_init import backends
from django_safe_init.backends.base.backend import BaseReader
from django_safe_init.conf import Settings, get_settings
from django_safe_init.core.build import Build, current_build
from django_safe_init.core.databases import check_alias
from django_safe_init.core.deadline import Deadline
from django_safe_init.core.records import (
    ConnectionEnded,
    RunRow,
    Snapshot,
    TablesLocked,
)
from django_safe_init.core.states import State
from django_safe_init.core.text import one_line
from django_safe_init.exceptions import DatabaseUnreachable

logger = logging.getLogger("django_safe_init")


@dataclass(frozen=True)
class Status:
    """What `get_status` found. Ages and durations are in seconds, by the database's clock."""

    database: str
    #: The leader's state, corrected by the truth: see `State`.
    state: State
    #: Per cent, 0 to 100.
    progress: int
    #: What is being done, in words.
    message: str
    #: The newest run, or None.
    run: RunRow | None = None
    #: Whether some process holds the leader lock now.
    led: bool = False
    #: What this build knows and the database has not recorded: migrations, then steps.
    pending: tuple[str, ...] = field(default=())
    #: Recorded migrations that this build does not know, of apps with pending ones: the
    #: database has gone another way.
    unknown: tuple[str, ...] = field(default=())
    error: str | None = None

    @property
    def ready(self) -> bool:
        """Whether everything this build knows is done."""
        return self.state is State.READY

    def as_json(self) -> dict[str, Any]:
        """All of it, for JSON."""
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
        }


def open_reader(
    database: str,
    settings: Settings,
    deadline: Deadline,
    build: Build | None = None,
    report: Callable[[str], None] = logger.info,
) -> BaseReader:
    """A reader of the alias, by its settings; whoever opens it closes it.

    `report` takes the reason for each wait for the server.
    """
    check_alias(database)
    return backends.open_reader(
        database, build or current_build(), settings, deadline, report
    )


def get_status(database: str = "default") -> Status:
    """The truth about a database, read without any lock and without waiting for the server.

    Raises `DatabaseUnreachable`, `WaitTimeout` (no connection to be had), `ConfigurationError`
    or `UnsupportedEngine`.
    """
    reader = open_reader(database, get_settings(), Deadline(0))
    with closing(reader):
        return read_status(database, reader)


def read_status(database: str, reader: BaseReader) -> Status:
    """The status as the reader sees it now, also while a migration has locked our tables.

    Raises `DatabaseUnreachable` when the connection is lost.
    """
    try:
        return _look(database, reader)
    except ConnectionEnded as exc:
        raise _ended(database, exc) from exc


def _look(database: str, reader: BaseReader) -> Status:
    try:
        return describe(database, reader.read())
    except TablesLocked:
        return Status(
            database,
            State.MIGRATING,
            progress=0,
            message="the status tables are locked, probably by a migration",
            led=reader.leader_pid() is not None,
        )


def _ended(database: str, error: ConnectionEnded) -> DatabaseUnreachable:
    return DatabaseUnreachable(
        f"The connection to {database!r} ended: {one_line(error)}"
    )


def read_history(database: str, reader: BaseReader, count: int) -> list[RunRow]:
    """The newest runs, newest first; none while a migration has locked our tables.

    Raises `DatabaseUnreachable` when the connection is lost.
    """
    try:
        return reader.history(count)
    except TablesLocked:
        return []
    except ConnectionEnded as exc:
        raise _ended(database, exc) from exc


def is_ready(database: str = "default") -> bool:
    """Whether everything this build knows is done. Raises what `get_status` raises."""
    return get_status(database).ready


def describe(database: str, reading: Snapshot) -> Status:
    """A reading as a person or a program outside wants it."""
    state, run = reading.state, reading.latest
    error = _error(reading) if state is State.ERROR else None
    return Status(
        database=database,
        state=state,
        progress=100
        if state is State.READY
        else (run.progress if run and run.open else 0),
        message=error or _message(state, reading),
        run=run,
        led=reading.led,
        pending=reading.missing,
        unknown=reading.unknown,
        error=error,
    )


def _error(reading: Snapshot) -> str:
    run = reading.latest
    assert run is not None  # the error is that run's
    if run.open:
        return f"the leader of run {run.id} ({run.leader}) died in {run.doing or run.state}"
    return run.error or f"run {run.id} failed"


def _message(state: State, reading: Snapshot) -> str:
    run = reading.latest
    if state is State.READY:
        return "everything this build knows is done"
    if state is State.UNINITIALIZED:
        return "not initialized for this build" + _other_way(reading)
    if run is None or not run.open:
        return "a leader is starting"
    step = (
        f" {min(run.done + 1, run.total)}/{run.total} {run.doing}" if run.total else ""
    )
    return f"{state}{step or ' ' + run.doing}".strip()


def _other_way(reading: Snapshot) -> str:
    if not reading.unknown:
        return ""
    return f", which does not know {', '.join(reading.unknown)}"
