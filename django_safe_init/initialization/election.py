"""Lead or follow: what a process does when its build is not known to be initialized."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from django_safe_init.backends.base.backend import BaseBackend, BaseReader
from django_safe_init.backends.base.lock import Lock
from django_safe_init.core.cancellation import sleep
from django_safe_init.core.deadline import Deadline
from django_safe_init.core.records import LeaderSnapshot, Snapshot, TablesLocked
from django_safe_init.core.states import State
from django_safe_init.core.text import one_line
from django_safe_init.exceptions import (
    InitializationFailed,
    LockLost,
    SafeInitError,
    WaitTimeout,
)
from django_safe_init.initialization.follower import Decision, Follower
from django_safe_init.initialization.leader import Leader

if TYPE_CHECKING:
    from django_safe_init.initialization.initializer import Initializer, Outcome


#: Between two looks at tables that somebody else has locked.
_SECONDS_TO_LOOK = 0.5


class Election:
    """One attempt of a process to see its build initialized, by itself or by others."""

    def __init__(self, process: Initializer, engine: BaseBackend[Any]) -> None:
        self.process = process
        self.request = process.request
        self.settings = process.settings
        self.engine = engine
        self.watch = engine.eyes

    def run(self) -> Outcome:
        """Return when this build is ready. Raises what `Initializer.run` raises."""
        if self.process.mode == "external":
            return self._wait_only()
        return self._compete()

    def _wait_only(self) -> Outcome:
        reading = self._first_reading()
        if not reading.ready:
            self.process.machine.to(State.ACQUIRING_LOCK)
            self.process.role = "follower"
            follower = self._follower(reading, leads=False)
            follower.follow()
            reading = follower.reading
        return self._ready(reading)

    def _first_reading(self) -> Snapshot:
        """The first look, which a migration that has locked our tables may delay."""
        external = self.process.mode == "external"

        def wait() -> None:
            if not external:
                self.watch.end_stalled(LeaderSnapshot(None, None))
            self.watch.pause()

        return self._reading(
            self.watch.reader if external else self.watch.direct_reader, wait
        )

    def _reading_with_lock(self) -> Snapshot:
        """A look with the lock in hand, whose session a pause of the watch might give back."""
        return self._reading(self.watch.direct_reader, lambda: sleep(_SECONDS_TO_LOOK))

    def _reading(
        self, reader: Callable[[], BaseReader], wait: Callable[[], None]
    ) -> Snapshot:
        patience = Deadline(self.settings.wait_timeout)
        while True:
            try:
                return reader().read()
            except TablesLocked as exc:
                if self.process.deadline.passed() or patience.passed():
                    raise WaitTimeout(
                        f"The status tables stayed locked: {one_line(exc)}"
                    ) from exc
                self.process.say(
                    "The status tables are locked at the moment, probably by a migration."
                )
                wait()

    def _compete(self) -> Outcome:
        reading = self._first_reading()
        if (
            reading.initialized
            and self.request.accepts_success
            and not self.request.force
        ):
            return self._ready(reading)
        self.process.machine.to(State.ACQUIRING_LOCK)
        follower = self._follower(reading, leads=True)
        while True:
            lock = self.engine.try_lock()
            if lock is None:
                self.process.role = "follower"
                done = follower.follow() is Decision.READY
            else:
                with self.engine.heartbeat(lock):
                    done = self._is_done(lock, follower)
                    if not done:
                        self._check_once(lock)
                if not done:
                    return self._lead(lock)
            if done:
                return self._ready(follower.reading)

    def _follower(self, reading: Snapshot, *, leads: bool) -> Follower:
        return Follower(
            self.watch,
            self.process.build,
            reading,
            self.process.say,
            satisfied=self._satisfied,
            leads=leads,
            shares_failure=self.request.work.complete,
        )

    def _satisfied(self, reading: Snapshot) -> bool:
        return reading.ready and self.request.accepts_success

    def _is_done(self, lock: Lock, follower: Follower) -> bool:
        """With the lock in hand: did somebody finish, or fail, in the meantime?

        What an earlier leader left running is ended first: it may hold locks on our own tables.
        """
        try:
            self.engine.take_over(lock)
            reading = self._reading_with_lock()
            done = follower.judge(reading) is Decision.READY
        except BaseException:
            with suppress(LockLost):
                lock.release()
            raise
        if done:
            lock.release()
        return done

    def _check_once(self, lock: Lock) -> None:
        """The system checks, in the leader alone: each may need a connection of its own."""
        if self.process.checked:
            return
        try:
            self.request.before_leading()
        except BaseException:
            with suppress(LockLost):
                lock.release()
            raise
        self.process.checked = True

    def _lead(self, lock: Lock) -> Outcome:
        process = self.process
        process.leads()
        leader = Leader(
            lock,
            self.engine.tools(lock),
            process.machine,
            self.request.work,
            process.lost,
        )
        try:
            leader.lead()
        except (SafeInitError, KeyboardInterrupt):
            raise
        except (Exception, SystemExit) as exc:
            raise InitializationFailed(
                leader.reason(exc),
                applied=(*process.applied, *leader.applied),
                failed_migration=leader.failed_migration,
                run=leader.run,
            ) from exc
        finally:
            process.applied += leader.applied
            process.run_id = leader.run or process.run_id
        return process.outcome("ready")

    def _ready(self, reading: Snapshot) -> Outcome:
        run = reading.own or reading.latest
        return self.process.ready(None if run is None else run.id)
