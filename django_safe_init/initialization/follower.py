"""Following: wait for the leader at no cost to it, learn how it ended, say what it does.

No wait holds a snapshot, a transaction or a blocking lock call. A follower keeps a connection,
on which it listens, only while the server has room; otherwise each look is a short connection.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from enum import Enum, auto

from django_safe_init.backends.base.backend import BaseObserver, BaseReader
from django_safe_init.core.build import Build
from django_safe_init.core.cancellation import sleep
from django_safe_init.core.deadline import Deadline
from django_safe_init.core.records import (
    Activity,
    ConnectionEnded,
    LeaderSnapshot,
    RunRow,
    Snapshot,
    TablesLocked,
)
from django_safe_init.core.text import one_line
from django_safe_init.exceptions import LeaderFailed, WaitTimeout

logger = logging.getLogger("django_safe_init")

_SECONDS_BETWEEN_LINES = 5.0
#: A follower looks about that often, so that it tells what is new within a second.
_SECONDS_BETWEEN_LOOKS = 1.0
_SECONDS_BETWEEN_DIAGNOSES = 5.0
_SECONDS_BETWEEN_REMINDERS = 30.0


class Decision(Enum):
    """What a follower should do next."""

    #: Go on: this build is initialized.
    READY = auto()
    #: Try to take the lock: nobody leads, or whoever led has left work to do.
    TRY = auto()


class Follower:
    """Waits until there is something to do, or nothing left to do.

    `since` is what was read before the waiting began: only what happened after that counts.
    `satisfied` says whether a reading is all that is wanted; `leads` whether this process may
    lead itself.
    """

    def __init__(
        self,
        watch: BaseObserver,
        build: Build,
        since: Snapshot,
        report: Callable[[str], None],
        *,
        satisfied: Callable[[Snapshot], bool],
        leads: bool,
        shares_failure: bool = True,
    ) -> None:
        self.watch = watch
        self.build = build.fingerprint
        self.since = since.latest
        self.satisfied = satisfied
        self.leads = leads
        self.shares_failure = shares_failure
        #: The reading that was judged last.
        self.reading = since
        self._progress = WaitLog(watch, report)

    def follow(self) -> Decision:
        """Wait for a verdict. Raises `LeaderFailed`, `WaitTimeout` or `DatabaseUnreachable`."""
        while True:
            try:
                verdict = self._look()
                if verdict is not None:
                    return verdict
                self.watch.pause()
            except ConnectionEnded as exc:
                logger.info("A follower's connection ended: %s", one_line(exc))
                self.watch.close()
                self._progress.check(self.watch.deadline)
                sleep(random.uniform(0.1, 0.5))

    def _look(self) -> Decision | None:
        reader = self.watch.reader()
        try:
            seen = glance = reader.glance()
            if not (self.leads and glance.at_work_for(self.build)):
                verdict = self.judge(self._read(reader, glance))
                if verdict is not None:
                    return verdict
        except TablesLocked:
            # A migration has locked our tables. Who leads can be seen nevertheless.
            glance = self._progress.glance._replace(leader_pid=reader.leader_pid())
            if self.leads and glance.leader_pid is None:
                return Decision.TRY
            seen = glance._replace(latest=None)
        if self.leads and self.watch.end_stalled(seen):
            return Decision.TRY
        self._progress.note(glance, reader)
        self._progress.check(self.watch.deadline)
        return None

    def _read(self, reader: BaseReader, glance: LeaderSnapshot) -> Snapshot:
        """All there is to know; no query if the leader of this very build has just told it.

        At that moment every follower asks, and the last one is to be served soon.
        """
        run = glance.latest
        if run is not None and run.build == self.build and self._ended_ready(run):
            return Snapshot((), run, run, True, False, glance.leader_pid)
        return reader.read()

    def judge(self, reading: Snapshot) -> Decision | None:
        """What a reading means for this process; None to go on waiting."""
        self.reading = reading
        own, latest = reading.own, reading.latest
        self._raise_shared_failure(own)
        if not self.leads:
            return Decision.READY if self.satisfied(reading) else None
        ready = self.satisfied(reading)
        if ready and (self._ended_ready(own) or self._ended_ready(latest)):
            return Decision.READY
        return Decision.TRY if reading.leader_pid is None else None

    def _is_news(self, ended: RunRow) -> bool:
        """Whether the run ended while this process waited."""
        since = self.since
        return (
            since is None
            or ended.id > since.id
            or (ended.id == since.id and since.open)
        )

    def _ended_ready(self, run: RunRow | None) -> bool:
        return run is not None and run.outcome == "ready" and self._is_news(run)

    def _raise_shared_failure(self, own: RunRow | None) -> None:
        if own is None or own.outcome != "failed" or not self.shares_failure:
            return
        if self._is_news(own):
            raise LeaderFailed(
                f"The leader ({own.leader}) failed: {own.error}", run=own.id
            )


class WaitLog:
    """Tells a person what the leader does, and when it no longer does anything."""

    def __init__(self, watch: BaseObserver, report: Callable[[str], None]) -> None:
        self.watch = watch
        self.settings = watch.settings
        self.report = report
        self._seen: tuple[object, ...] = ()
        self._moved = self._told = self._diagnosed = time.monotonic()
        self._told_news: tuple[object, ...] = ()
        self._activity: Activity | None = None
        #: The step that said how far it was, when a line was told last.
        self._counting: tuple[int, int] | None = None
        #: What was seen last.
        self.glance = LeaderSnapshot(None, None)

    def note(self, glance: LeaderSnapshot, reader: BaseReader) -> None:
        """Take in what was seen, and say so if it is worth a line."""
        now = time.monotonic()
        run = glance.latest
        self.glance = glance
        seen: tuple[object, ...] = (glance.leader_pid,)
        if run is not None:
            seen = (run.id, run.done, run.message, run.state, run.items)
        if seen != self._seen:
            self._seen = seen
            self._moved = now
        if now - self._diagnosed >= _SECONDS_BETWEEN_DIAGNOSES:
            self._diagnose(reader, now)
        self._tell(now)

    def _diagnose(self, reader: BaseReader, now: float) -> None:
        self._diagnosed = now
        self._activity = reader.activity()
        if self._activity.progressing:
            self._moved = now

    def _tell(self, now: float) -> None:
        news = (*self._seen, bool(self._activity and self._activity.blockers))
        silence = now - self._told
        begins = self._begins_to_count() and silence >= _SECONDS_BETWEEN_LOOKS
        due = silence >= _SECONDS_BETWEEN_LINES or begins
        changed = news != self._told_news and due
        if not self._told_news or changed or silence >= _SECONDS_BETWEEN_REMINDERS:
            self._told_news, self._told = news, now
            self._counting = self._step_that_counts()
            self.report(self._full(describe_leader(self.glance)))

    def _begins_to_count(self) -> bool:
        """Whether the running step tells for the first time how far it is."""
        step = self._step_that_counts()
        return step is not None and step != self._counting

    def _step_that_counts(self) -> tuple[int, int] | None:
        run = self.glance.latest
        return (run.id, run.done) if run is not None and run.items else None

    def _full(self, line: str) -> str:
        activity = str(self._activity or "")
        end = ""
        if self._activity and self._activity.blockers:
            end = f". To end it: SELECT pg_terminate_backend({self._activity.blockers[0].pid});"
        return f"{line}; {activity}{end}" if activity else line

    def check(self, deadline: Deadline) -> None:
        """Raise `WaitTimeout` when the time for waiting is over."""
        silence = time.monotonic() - self._moved
        if deadline.passed():
            raise WaitTimeout(f"Gave up after {deadline.seconds:g} s. {self._remedy()}")
        if silence > self.settings.wait_timeout:
            raise WaitTimeout(
                f"Gave up: no progress for {self.settings.wait_timeout:g} s. {self._remedy()}"
            )

    def _remedy(self) -> str:
        pid = self.glance.leader_pid
        if pid is None:
            return "Nobody initializes this database: run `manage.py safe_migrate` somewhere."
        text = self._full(describe_leader(self.glance))
        return f"{text}. To end the leader: {self.watch.how_to_end(pid)}"


def describe_leader(glance: LeaderSnapshot) -> str:
    """One line for a person: who leads, since when, what it does, n of total."""
    run = glance.latest
    if run is None or not run.open:
        if glance.leader_pid is None:
            return "waiting for somebody to initialize this database"
        return f"waiting for the leader (pid {glance.leader_pid}), which is starting"
    step = f" {min(run.done + 1, run.total)}/{run.total}" if run.total else ""
    return (
        f"waiting for {run.leader}, leader of run {run.id} for {run.age_seconds:.0f} s: "
        f"{run.state}{step} {run.doing}".rstrip()
    )
