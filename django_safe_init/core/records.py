"""What is true about a database, as everybody may read it: no lock, no write, no long wait.

Ready is decided by sets of names: every migration this build knows is recorded in
`django_migrations`, and no run of this same build is open or failed. Runs only narrate.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from django_safe_init.core.states import State
from django_safe_init.core.text import shorten

if TYPE_CHECKING:
    pass

if TYPE_CHECKING:
    pass
if TYPE_CHECKING:
    pass


class TablesLocked(Exception):
    """Our tables cannot be read at the moment: a migration has locked them."""


class TablesUnreadable(Exception):
    """A table is not there, or this role may not read it."""


class ConnectionEnded(Exception):
    """The connection was lost while something was read."""


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

    @property
    def items(self) -> str:
        """How far the loop is that the running step is in; empty if it says nothing."""
        if self.item_done is None:
            return ""
        total = f"/{self.item_total}" if self.item_total else ""
        return f"{self.item_message or ''} {self.item_done}{total}".strip()

    @property
    def doing(self) -> str:
        """What the run is doing, and how far it is in it."""
        return f"{self.message}: {self.items}" if self.items else self.message

    @property
    def open(self) -> bool:
        """Whether nobody has closed the run yet: its leader works, or died."""
        return self.outcome is None

    @property
    def result(self) -> str:
        """Return the outcome, or "open" while the run has none."""
        return run_result(self.outcome)

    def as_json(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {**self._asdict(), "state": self.state.value}


def _state(values: dict[str, Any]) -> State:
    try:
        return State(values["state"])
    except ValueError:  # of a newer version
        return State.MIGRATING if values.get("outcome") is None else State.ERROR


def run_row(values: dict[str, Any] | None) -> RunRow | None:
    """From a row as JSON, as any version of this package may have written it."""
    if values is None:
        return None
    return RunRow(
        id=values["id"],
        build=values["build"],
        state=_state(values),
        outcome=values.get("outcome"),
        done=values.get("done", 0),
        total=values.get("total", 0),
        progress=values.get("progress", 0),
        message=values.get("message", ""),
        leader=values.get("leader", ""),
        backend_pid=values.get("backend_pid", 0),
        command=values.get("command", ""),
        started_at=values["started_at"],
        finished_at=values.get("finished_at"),
        error=values.get("error"),
        age_seconds=float(values["age_seconds"]),
        silence_seconds=float(values["silence_seconds"]),
        duration_seconds=float(values["duration_seconds"]),
        item_done=values.get("item_done"),
        item_total=values.get("item_total"),
        item_message=values.get("item_message"),
    )


class LeaderSnapshot(NamedTuple):
    """Who leads, and the newest run."""

    latest: RunRow | None
    leader_pid: int | None

    def at_work_for(self, build: str) -> bool:
        """Whether a leader is alive and its open run is one of this build."""
        run = self.latest
        if run is None or self.leader_pid is None:
            return False
        return run.open and run.build == build


class Snapshot(NamedTuple):
    """One look at a database, consistent in itself."""

    #: What this build knows and the database has not recorded: migrations, sorted, then steps.
    missing: tuple[str, ...]
    #: The newest run, of any build.
    latest: RunRow | None
    #: The newest run of this build.
    own: RunRow | None
    #: Whether a run of this build has ended ready.
    finished: bool
    #: Whether a run that is newer than `own` ended ready.
    superseded: bool
    #: The process that holds the leader lock: a backend of PostgreSQL, with SQLite the leader.
    leader_pid: int | None
    #: Recorded migrations that this build does not know, of apps with missing ones, sorted.
    unknown: tuple[str, ...] = ()

    @property
    def ready(self) -> bool:
        """Whether everything this build knows is done, and no run of it is open or failed."""
        own = self.own
        if self.missing or (own is not None and own.open):
            return False
        return own is None or own.outcome != "failed" or self.superseded

    @property
    def initialized(self) -> bool:
        """Stricter: `post_migrate` and validation are known to have happened, too."""
        return self.ready and self.finished

    @property
    def led(self) -> bool:
        """Whether some process holds the leader lock."""
        return self.leader_pid is not None

    @property
    def state(self) -> State:
        """The leader's state, corrected by the truth."""
        if self.ready:
            return State.READY
        if self.latest is None:
            return State.CHECKING_SCHEMA if self.led else State.UNINITIALIZED
        if self.latest.open:
            return self.latest.state if self.led else State.ERROR
        if self.latest.outcome == "failed":
            return State.ERROR
        return State.CHECKING_SCHEMA if self.led else State.UNINITIALIZED


class StepRow(NamedTuple):
    """A row of the step table."""

    position: int
    kind: str
    name: str
    backwards: bool
    outcome: str | None
    seconds: float


def step_row(values: dict[str, Any]) -> StepRow:
    """From a row as JSON, as any version of this package may have written it."""
    return StepRow(
        position=values["position"],
        kind=values["kind"],
        name=values["name"],
        backwards=values.get("backwards", False),
        outcome=values.get("outcome"),
        seconds=float(values["seconds"]),
    )


class RunDetail(NamedTuple):
    """What there is to see around a run."""

    #: Its newest steps, in their order.
    steps: tuple[StepRow, ...] = ()
    #: The database role of the leader.
    role: str | None = None
    #: How many followers are to be seen just now.
    followers: int | None = None


def same_apps(unknown: Iterable[str], missing: Iterable[str]) -> tuple[str, ...]:
    """Those of the recorded names that belong to apps with missing ones, sorted.

    An app that this build no longer has leaves its migrations behind: that is no news.
    """
    apps = {name.split(".")[0] for name in missing}
    return tuple(sorted(name for name in unknown if name.split(".")[0] in apps))


RUN_TABLE = "django_safe_init_run"
STEP_TABLE = "django_safe_init_step"

#: How a run can end.
OUTCOMES = ("ready", "partial", "failed", "interrupted", "transient", "abandoned")


#: Ends after which somebody else tries; the third in a row of one build is a failure.
TRANSIENT_OUTCOMES = ("interrupted", "transient", "abandoned")


MAX_TRANSIENT_FAILURES = 3


@dataclass(frozen=True)
class Blocker:
    """A session that a leader's statement waits for."""

    pid: int
    role: str
    application: str
    state: str
    seconds: float
    query: str

    def __str__(self) -> str:
        return (
            f"pid {self.pid} (role {self.role}, {self.application or 'no name'}, {self.state} "
            f"for {self.seconds:.0f} s: {shorten(self.query)})"
        )


@dataclass(frozen=True)
class Activity:
    """What can be seen of a leader at one moment; another role sees less."""

    #: The statement that runs, how long it has run in seconds, and the backend it runs in.
    query: str | None
    seconds: float
    pid: int | None
    #: Whether a statement is running and not waiting for a lock.
    progressing: bool
    blockers: tuple[Blocker, ...]

    def __str__(self) -> str:
        if self.query is None:
            return ""
        text = f"running for {self.seconds:.0f} s: {shorten(self.query)}"
        if self.blockers:
            text += "; blocked by " + ", ".join(
                str(blocker) for blocker in self.blockers
            )
        return text


@dataclass
class LostRuns:
    """The runs that this process has led and lost, and why it lost the last one."""

    runs: list[int] = field(default_factory=list)
    reason: str = ""


@dataclass(frozen=True)
class InterruptedStep:
    """The start of a non-atomic migration, as its leader noted it."""

    name: str
    backwards: bool
    #: Indexes named by the migration that existed before it started: never dropped.
    indexes_before: frozenset[str]
    #: The run that made the mark.
    run: int

    @classmethod
    def from_row(
        cls, run: int, name: str, backwards: bool, detail: Any
    ) -> InterruptedStep:
        """From the columns of an open step; `detail` is what `start_detail` gave."""
        before = frozenset((detail or {}).get("indexes_before", ()))
        return cls(name, bool(backwards), before, run)
