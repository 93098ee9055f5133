"""Campaign for the leader lock: lead one run, or follow until the build is ready."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from django_safe_init.backends.base.backend import LockingBackend
from django_safe_init.backends.base.observer import BaseObserver
from django_safe_init.backends.base.reader import BaseReader
from django_safe_init.core.cancellation import sleep
from django_safe_init.core.deadline import Deadline
from django_safe_init.core.records import LeaderSnapshot, Snapshot, TablesLocked
from django_safe_init.core.states import State
from django_safe_init.exceptions import WaitTimeout
from django_safe_init.initialization.check_failures import is_shared_failure
from django_safe_init.initialization.follower import Follower
from django_safe_init.initialization.leader import Leader
from django_safe_init.initialization.release import ReceiverPolicy
from django_safe_init.initialization.types import Decision, Outcome, Progress

#: Between two polls of status tables that another session has locked.
_SECONDS_BETWEEN_POLLS = 0.5
#: The longest pause after the second lost campaign. Each further one doubles it, up to the limit.
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.25, 2.0


def _pauses_after_lost_campaigns() -> Iterator[float]:
    longest = _FIRST_PAUSE_SECONDS
    while True:
        yield random.uniform(longest / 4, longest)
        longest = min(2 * longest, _LONGEST_PAUSE_SECONDS)


class Election:
    """One attempt to see this build initialized, by this process or by another one."""

    def __init__(
        self,
        backend: LockingBackend,
        observer: BaseObserver,
        progress: Progress,
        policy: ReceiverPolicy,
        *,
        may_lead: bool,
    ) -> None:
        self.backend = backend
        self.context = backend.context
        self.observer = observer
        self.progress = progress
        self.options = progress.options
        self.policy = policy
        self.may_lead = may_lead

    def run(self) -> Outcome:
        """Return when this build is ready. Raises the errors of `Initializer.run`."""
        self.backend.check()
        return self._campaign() if self.may_lead else self._follow_only()

    def _follow_only(self) -> Outcome:
        snapshot = self._first_snapshot()
        if not snapshot.ready:
            self.progress.machine.transition_to(State.ACQUIRING_LOCK)
            self.progress.role = "follower"
            follower = self._follower(snapshot)
            follower.follow()
            snapshot = follower.snapshot
        return self._ready(snapshot)

    def _campaign(self) -> Outcome:
        snapshot = self._first_snapshot()
        if (
            snapshot.initialized
            and self.policy.allows_skip(snapshot)
            and self.options.follow_success
            and not self.options.must_run
        ):
            return self._ready(snapshot)
        self.progress.machine.transition_to(State.ACQUIRING_LOCK)
        follower = self._follower(snapshot)
        leader = Leader(
            self.backend,
            self.observer,
            self.progress,
            is_done=lambda: self._recheck_with_lock(follower),
        )
        pauses = _pauses_after_lost_campaigns()
        while True:
            decision = leader.run()
            if decision is Decision.FOLLOW:
                if self.progress.role == "follower":
                    # The lock was free a moment ago: another session takes it in bursts.
                    follower.check_timeouts()
                    sleep(self.context.deadline.clip(next(pauses)))
                self.progress.role = "follower"
                decision = follower.follow()
            if decision is Decision.LED:
                return self.progress.outcome("ready")
            if decision is Decision.DONE:
                return self._ready(follower.snapshot)

    def _follower(self, since: Snapshot) -> Follower:
        return Follower(
            self.observer,
            since,
            satisfied=self._is_satisfied,
            may_lead=self.may_lead,
            propagate_failure=self.options.task.full_target,
            shares_failure=lambda run: is_shared_failure(run, self.progress),
        )

    def _is_satisfied(self, snapshot: Snapshot) -> bool:
        done = snapshot.ready and self.options.follow_success
        return done and self.policy.accepts(snapshot)

    def _recheck_with_lock(self, follower: Follower) -> bool:
        """Return True if another leader finished before this process took the lock.

        Raises `LeaderFailed` if one failed.
        """
        snapshot = self._snapshot(
            # A wait of the observer might give back the session that holds the lock.
            self.observer.direct_reader,
            lambda: sleep(_SECONDS_BETWEEN_POLLS),
        )
        if snapshot.own is not None and snapshot.own.needs_no_checks:
            self.progress.checks_passed = True
        return follower.decide(snapshot, holds_lock=True) is Decision.DONE

    def _first_snapshot(self) -> Snapshot:
        """Return the first snapshot, as soon as no migration locks the status tables."""

        def wait() -> None:
            if self.may_lead:
                self.observer.end_stalled(LeaderSnapshot(None, None))
            self.observer.wait()

        observer = self.observer
        reader = observer.direct_reader if self.may_lead else observer.reader
        return self._snapshot(reader, wait)

    def _snapshot(
        self, reader: Callable[[], BaseReader], wait: Callable[[], None]
    ) -> Snapshot:
        patience = Deadline(self.context.settings.wait_timeout)
        while True:
            opened = reader()
            try:
                return opened.read()
            except TablesLocked as exc:
                if self.context.deadline.passed() or patience.passed():
                    raise WaitTimeout(opened.table_lock_holders()) from exc
                self.progress.report(
                    "The status tables are locked at the moment, probably by a migration."
                )
                wait()

    def _ready(self, snapshot: Snapshot) -> Outcome:
        run = snapshot.own or snapshot.latest
        return self.progress.ready(None if run is None else run.id)
