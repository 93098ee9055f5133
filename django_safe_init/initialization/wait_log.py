"""Report the leader's progress to the person who waits, and enforce the limits of waiting."""

from __future__ import annotations

import time
from collections.abc import Callable

from django_safe_init.backends.base.observer import BaseObserver
from django_safe_init.backends.base.reader import BaseReader
from django_safe_init.core.findings import management_command_line
from django_safe_init.core.records import Activity, LeaderSnapshot
from django_safe_init.core.text import Hint, with_commands, wrap
from django_safe_init.exceptions import WaitTimeout

_SECONDS_BETWEEN_LINES = 5.0
#: A follower polls about that often, so it reports a change within a second.
_SECONDS_BETWEEN_POLLS = 1.0
_SECONDS_BETWEEN_DIAGNOSES = 5.0
_SECONDS_BETWEEN_REMINDERS = 30.0


class WaitLog:
    """Writes lines about the leader, few enough to read, and enforces the limits of waiting."""

    def __init__(self, observer: BaseObserver) -> None:
        self.observer = observer
        self.settings = observer.context.settings
        self.deadline = observer.context.deadline
        self._seen: tuple[object, ...] = ()
        self._moved = self._reported = self._diagnosed = time.monotonic()
        self._reported_state: tuple[object, ...] = ()
        self._activity: Activity | None = None
        #: The step with a progress of its own, as of the last line.
        self._counting: tuple[int, int] | None = None
        #: The session that holds the leader lock, if no open run is its own.
        self._holder = ""
        self._holder_pid: int | None = None
        #: The newest snapshot.
        self.peeked = LeaderSnapshot(None, None)

    def note(self, peeked: LeaderSnapshot, reader: BaseReader) -> None:
        """Take a snapshot into account, and report it if it is worth a line."""
        now = time.monotonic()
        run = peeked.latest
        self.peeked = peeked
        seen: tuple[object, ...] = (peeked.leader_pid,)
        if run is not None:
            seen = (*run.identity, run.done, run.message, run.state, run.items)
        if seen != self._seen:
            self._seen = seen
            self._moved = now
        self._name_holder(peeked, reader)
        if now - self._diagnosed >= self._seconds_between_diagnoses:
            self._diagnose(reader, now)
        self._report_if_due(now)

    def _name_holder(self, peeked: LeaderSnapshot, reader: BaseReader) -> None:
        """Look up the session that holds the lock, once, unless the open run names it."""
        pid = peeked.leader_pid if not peeked.names_leader else None
        if pid != self._holder_pid:
            self._holder_pid = pid
            self._holder = reader.leader_session() if pid is not None else ""

    @property
    def _seconds_between_diagnoses(self) -> float:
        if self.observer.keeps_connection:
            return _SECONDS_BETWEEN_DIAGNOSES
        # Often enough to see progress before WAIT_TIMEOUT.
        return min(_SECONDS_BETWEEN_REMINDERS, self.settings.wait_timeout / 4)

    def _diagnose(self, reader: BaseReader, now: float) -> None:
        self._diagnosed = now
        self._activity = reader.activity()
        if self._activity.progressing:
            self._moved = now

    def _report_if_due(self, now: float) -> None:
        state = (*self._seen, bool(self._activity and self._activity.blockers))
        silence = now - self._reported
        begins = self._begins_to_count() and silence >= _SECONDS_BETWEEN_POLLS
        due = silence >= _SECONDS_BETWEEN_LINES or begins
        changed = state != self._reported_state and due
        if not self._reported_state or changed or silence >= _SECONDS_BETWEEN_REMINDERS:
            self._reported_state, self._reported = state, now
            self._counting = self._counting_step()
            self.observer.context.report(self._with_activity())

    def _begins_to_count(self) -> bool:
        """Return True if the running step reports its own progress for the first time."""
        step = self._counting_step()
        return step is not None and step != self._counting

    def _counting_step(self) -> tuple[int, int] | None:
        run = self.peeked.latest
        return (run.id, run.done) if run is not None and run.items else None

    def _with_activity(self) -> str:
        line = self._describe()
        remedy = self._activity.remedy if self._activity else ""
        return f"{line}. To end it: {remedy}" if remedy else line

    def _describe(self) -> str:
        line = describe_leader(self.peeked, self._holder)
        activity = str(self._activity or "")
        return f"{line}; {activity}" if activity else line

    def check_timeouts(self, obstacle: Callable[[], str] | None = None) -> None:
        """Raise `WaitTimeout` at the deadline, and after `WAIT_TIMEOUT` without progress.

        `obstacle` returns the sentence about an obstacle that is not the leader.
        """
        silence = time.monotonic() - self._moved
        if self.deadline.passed():
            limit = f" after {self.deadline.seconds:g} s"
        elif silence > self.settings.wait_timeout:
            limit = f": no progress for {self.settings.wait_timeout:g} s"
        else:
            return
        raise WaitTimeout(wrap(f"Gave up{limit}. ", self._remedy(obstacle)))

    def _remedy(self, obstacle: Callable[[], str] | None) -> str:
        pid = self.peeked.leader_pid
        if pid is None and obstacle is not None:
            return obstacle()
        if pid is None:
            alias = self.observer.context.alias
            command = management_command_line("safe_migrate", alias)
            return f"No process initializes this database. Start one: {command}"
        ways = self.observer.how_to_end(pid)
        if not ways:
            return self._with_activity()
        line, choice = self._describe(), ", by one of these" if len(ways) > 1 else ""
        remedy = self._activity.remedy if self._activity else ""
        if remedy:
            goal = "To end the session that blocks it, or the leader"
            return Hint(f"{line}. {goal}:", remedy, *ways)
        return with_commands(f"{line}. To end the leader{choice}:", ways)


def describe_leader(peeked: LeaderSnapshot, holder: str = "") -> str:
    """Return one line: the leader, since when it leads, its step, `done` of `total`.

    `holder` describes the holder of the leader lock, if no open run is its own.
    """
    run = peeked.latest
    if holder:
        return f"waiting for a leader that has opened no run yet: {holder}"
    if run is None or not run.open:
        if peeked.leader_pid is None:
            return "waiting for somebody to initialize this database"
        return "waiting for a leader that has opened no run yet"
    step = f" {min(run.done + 1, run.total)}/{run.total}" if run.total else ""
    return (
        f"waiting for the {run.leader_title}, for {run.age_seconds:.0f} s: "
        f"{run.state}{step} {run.doing}".rstrip()
    )
