"""A run as a person who watches it sees it: its steps, its leader, who waits for it."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from django_safe_init.backends.base.backend import BaseReader
from django_safe_init.core.records import (
    Activity,
    ConnectionEnded,
    StepRow,
    TablesLocked,
    TablesUnreadable,
)
from django_safe_init.core.states import State
from django_safe_init.core.text import one_line
from django_safe_init.exceptions import DatabaseUnreachable
from django_safe_init.status import Status, read_status

#: More steps than a terminal has lines.
MAX_STEPS = 200
#: For each query of a look, so that a watcher makes four a second at most.
SECONDS_PER_QUERY = 0.25


@dataclass(frozen=True)
class StatusDetail:
    """What was seen at one moment. Ages and durations are in seconds, as of that moment."""

    status: Status
    #: The newest steps of the run, in their order.
    steps: tuple[StepRow, ...] = ()
    #: The role of the leader's session.
    role: str | None = None
    #: Sessions of followers that are connected now; those that look with short ones come and go.
    followers: int | None = None
    #: What the leader's statement is, and what blocks it.
    activity: Activity | None = None
    #: What the steps that are left took before; None unless all were timed.
    remaining_seconds: float | None = None
    #: What else there is to say.
    note: str = ""
    #: Whether this role may not read the steps.
    blind: bool = False
    #: On this process's monotonic clock.
    seen_at: float = field(default_factory=time.monotonic)

    @property
    def running(self) -> bool:
        """Whether a leader is at work on the run."""
        run = self.status.run
        return self.status.led and run is not None and run.open

    def as_json(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {
            **self.status.as_json(),
            "steps": [step._asdict() for step in self.steps],
            "role": self.role,
            "followers": self.followers,
            **self.doing_as_json(),
            "remaining_seconds": self.remaining_seconds,
        }

    def doing_as_json(self) -> dict[str, Any]:
        """The leader's statement, and who blocks it, for JSON."""
        blockers = self.activity.blockers if self.activity else ()
        return {
            "activity": str(self.activity or "") or None,
            "blockers": [asdict(blocker) for blocker in blockers],
        }

    @property
    def elapsed(self) -> float:
        """The seconds since that moment."""
        return time.monotonic() - self.seen_at


def read_detail(
    database: str, reader: BaseReader, before: StatusDetail | None
) -> StatusDetail:
    """What the reader sees now, with no lock and no transaction that outlives a query.

    While a migration has locked our tables, what was known `before` is shown with a note. Raises
    `DatabaseUnreachable` when the connection is lost.
    """
    status = read_status(database, reader)
    if status.run is None:
        return carry_forward(status, before)
    blind = before is not None and before.blind
    try:
        return _surroundings(status, reader, blind)
    except TablesLocked as exc:
        return carry_forward(replace(status, message=one_line(exc)), before)
    except TablesUnreadable as exc:
        return StatusDetail(status, note=one_line(exc), blind=True)
    except ConnectionEnded as exc:
        raise DatabaseUnreachable(
            f"The connection to {database!r} ended: {one_line(exc)}"
        ) from exc


def carry_forward(status: Status, before: StatusDetail | None) -> StatusDetail:
    """The status alone; for a run that cannot be read just now, what was known `before`."""
    if before is None or not before.running or status.state is not State.MIGRATING:
        return StatusDetail(status)
    known = replace(before.status, led=status.led)
    return replace(before, status=known, note=status.message)


def with_estimate(scene: StatusDetail, reader: BaseReader) -> StatusDetail:
    """The scene with what the run may still take, if its steps were timed before."""
    run, names = scene.status.run, scene.status.pending
    if run is None or not scene.running or not names:
        return scene
    try:
        return replace(scene, remaining_seconds=reader.seconds_left(run, names))
    except (TablesLocked, TablesUnreadable, ConnectionEnded):
        return scene


def _surroundings(status: Status, reader: BaseReader, blind: bool) -> StatusDetail:
    assert status.run is not None  # the caller has looked
    seen = reader.surroundings(status.run, None if blind else MAX_STEPS)
    scene = StatusDetail(status, seen.steps, seen.role, seen.followers, blind=blind)
    return replace(scene, activity=reader.activity()) if scene.running else scene


def poll_interval(scene: StatusDetail) -> float:
    """How long to wait before the next look, so that the server is not asked more often."""
    queries = 3  # also while there is no table of runs, which is looked for each time
    if scene.activity is not None:
        queries += 2 if scene.activity.blockers else 1
    return queries * SECONDS_PER_QUERY
