"""Lead or follow: what `safe_migrate`, `migrate` and `initialize` do for one database."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psycopg
from django.db import OperationalError

from django_safe_init.arming import require_no_transaction
from django_safe_init.build import current_build
from django_safe_init.conf import effective_mode, get_settings
from django_safe_init.connections import (
    Deadline,
    Session,
    check_alias,
    connect,
    is_busy,
    is_postgresql,
    make_wrapper,
    one_line,
    require_postgresql,
)
from django_safe_init.exceptions import (
    ConfigurationError,
    DatabaseUnreachable,
    InitializationFailed,
    LockLost,
    SafeInitError,
    WaitTimeout,
)
from django_safe_init.follower import Follower, Verdict, Watch
from django_safe_init.locks.postgresql import (
    LeaderLock,
    require_exclusion,
    require_own_server_session,
)
from django_safe_init.migrating import run_migrate
from django_safe_init.recorder import Lost
from django_safe_init.states import State, StateMachine
from django_safe_init.status import Reader, Reading
from django_safe_init.work import Work, is_under_way, leading_with

logger = logging.getLogger("django_safe_init")


@dataclass(frozen=True)
class Outcome:
    """How an initialization ended for this process. Durations are in seconds."""

    #: "ready", or the `result` of the error that was raised.
    result: str
    #: "leader", "follower", or "none" where neither was needed.
    role: str
    database: str
    #: The run that was led or followed.
    run: int | None = None
    #: The migrations that this process has done, in order.
    applied: tuple[str, ...] = ()
    #: Until this process led, or needed to wait no longer.
    waited_seconds: float = 0.0
    duration_seconds: float = 0.0
    error: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The JSON object of `safe_migrate --json`."""
        return {
            "result": self.result,
            "role": self.role,
            "database": self.database,
            "run": self.run,
            "applied": list(self.applied),
            "waited_seconds": round(self.waited_seconds, 3),
            "duration_seconds": round(self.duration_seconds, 3),
            "error": self.error,
        }


@dataclass(frozen=True)
class Request:
    """What is wanted of an initialization."""

    work: Work
    database: str = "default"
    #: "self", "external" or "off"; None for the setting.
    mode: str | None = None
    #: How long all of it may take, in seconds; None for the setting `MAX_WAIT`.
    timeout: float | None = None
    #: Do the work even if this build is initialized already.
    force: bool = False
    #: Whether another leader's success is enough, or the work is to be done in any case.
    accepts_success: bool = True
    #: Called once, with the lock in hand and before any work.
    before_leading: Callable[[], None] = lambda: None


def wait_for_server(database: str, report: Callable[[str], None]) -> None:
    """Return as soon as the server of the alias answers. Raises `DatabaseUnreachable`."""
    settings = get_settings()
    wrapper = make_wrapper(database, settings.direct.get(database))
    deadline = Deadline(settings.max_wait)
    with connect(wrapper, settings, deadline, "safe_init waiting", report):
        pass


def _require_no_event_loop() -> None:
    """Django refuses the database there; better now than in a run that fails for all."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    if not os.environ.get("DJANGO_ALLOW_ASYNC_UNSAFE"):
        raise ConfigurationError(
            "initialize() was called in an event loop. "
            "Call it in a thread: await asyncio.to_thread(initialize)."
        )


def retry_while_busy(
    call: Callable[[], None], database: str, report: Callable[[str], None]
) -> None:
    """Call it again as long as Django gets no connection because the server is full."""
    patience = Deadline(get_settings().wait_timeout)
    while True:
        try:
            return call()
        except OperationalError as exc:
            if patience.passed() or not is_busy(exc):
                raise DatabaseUnreachable(
                    f"The database {database!r} failed: {one_line(exc)}"
                ) from exc
            report(f"waiting for the server: {one_line(exc)}")
            time.sleep(random.uniform(0.1, 2.0))


class Initializer:
    """One process's initialization of one database."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.database = request.database
        self.role = "none"
        self.run_id: int | None = None
        self.applied: tuple[str, ...] = ()
        self._started = time.monotonic()
        self._waited: float | None = None
        self._checked = False
        self.lost = Lost()

    def run(self) -> Outcome:
        """Initialize, or wait until somebody has. Raises a `SafeInitError` for every failure.

        A `KeyboardInterrupt` ends it cleanly: the statement is cancelled, the run is closed
        as interrupted, and the lock is free.
        """
        self._prepare()
        if self.mode == "off" or not is_postgresql(self.database):
            return self._unprotected()
        restarts = 0
        while True:
            try:
                return self._attempt()
            except (LockLost, psycopg.OperationalError) as exc:
                self.machine.to(State.ERROR)
                restarts += 1
                if restarts > self.settings.restarts:
                    raise LockLost(
                        f"Lost the leader lock {restarts} times, the last time: {one_line(exc)}"
                    ) from exc
                self.lost.reason = one_line(exc)
                self._say(f"{one_line(exc)} Starting over.")
            except BaseException:
                self.machine.to(State.ERROR)
                raise

    def _unprotected(self) -> Outcome:
        """Django as it is."""
        self.request.before_leading()
        try:
            with leading_with(self.database, None):
                self.request.work.migrate()
        except (Exception, SystemExit) as exc:
            text = f"{type(exc).__name__}: {one_line(exc)}"
            raise InitializationFailed(text) from exc
        return self.outcome("ready")

    def _prepare(self) -> None:
        _require_no_event_loop()
        self.settings = get_settings()
        self.mode = effective_mode(self.settings, self.request.mode)
        timeout = (
            self.settings.max_wait
            if self.request.timeout is None
            else self.request.timeout
        )
        if timeout is not None and not timeout >= 0:  # neither is "not a number"
            raise ConfigurationError(
                f"A time-out of {timeout:g} seconds is not possible."
            )
        if is_under_way(self.database):
            raise ConfigurationError(
                f"A migration of {self.database!r} must not initialize {self.database!r}."
            )
        self.deadline = Deadline(timeout)
        check_alias(self.database)
        if self.mode != "off":
            if self.settings.lock == "auto":
                require_postgresql(self.database)
            require_no_transaction(self.database)
        self.build = current_build()
        self.machine = StateMachine(self.database)
        self.direct = self.settings.direct.get(self.database)

    def outcome(self, result: str, error: str | None = None) -> Outcome:
        """What there is to say now."""
        duration = time.monotonic() - self._started
        return Outcome(
            result=result,
            role=self.role,
            database=self.database,
            run=self.run_id,
            applied=self.applied,
            waited_seconds=duration if self._waited is None else self._waited,
            duration_seconds=duration,
            error=error,
        )

    def _say(self, line: str) -> None:
        logger.info("%s: %s", self.database, line)
        self.request.work.report(line)

    def _attempt(self) -> Outcome:
        self.machine.to(State.CONNECTING)
        watch = Watch(
            self.database, self.build, self.settings, self.deadline, self._say
        )
        try:
            return (
                self._wait_only(watch)
                if self.mode == "external"
                else self._compete(watch)
            )
        finally:
            watch.close()

    def _wait_only(self, watch: Watch) -> Outcome:
        reading = self._first_reading(watch, watch.reader)
        if not reading.ready:
            self.machine.to(State.ACQUIRING_LOCK)
            self.role = "follower"
            follower = self._follower(watch, reading, leads=False)
            follower.follow()
            reading = follower.reading
        return self._ready(reading)

    def _first_reading(self, watch: Watch, reader: Callable[[], Reader]) -> Reading:
        """The first look, which a migration that has locked our tables may delay."""
        patience = Deadline(self.settings.wait_timeout)
        while True:
            try:
                return reader().read()
            except (
                psycopg.errors.LockNotAvailable,
                psycopg.errors.QueryCanceled,
            ) as exc:
                if self.deadline.passed() or patience.passed():
                    raise WaitTimeout(
                        f"The status tables stayed locked: {one_line(exc)}"
                    ) from exc
                self._say(
                    "The status tables are locked at the moment, probably by a migration."
                )
                watch.pause()

    def _compete(self, watch: Watch) -> Outcome:
        reading = self._first_reading(watch, watch.direct_reader)
        if (
            reading.initialized
            and self.request.accepts_success
            and not self.request.force
        ):
            return self._ready(reading)
        self.machine.to(State.ACQUIRING_LOCK)
        follower = self._follower(watch, reading, leads=True)
        while True:
            lock = self._try_lock(watch)
            if lock is None:
                self.role = "follower"
                done = follower.follow() is Verdict.READY
            else:
                done = self._is_done(lock, watch, follower)
                if not done:
                    self._check_once(lock)
                    return self._lead(lock)
            if done:
                return self._ready(follower.reading)

    def _follower(self, watch: Watch, reading: Reading, *, leads: bool) -> Follower:
        return Follower(
            watch,
            self.build,
            reading,
            self._say,
            satisfied=self._satisfied,
            leads=leads,
            shares_failure=self.request.work.complete,
        )

    def _satisfied(self, reading: Reading) -> bool:
        return reading.ready and self.request.accepts_success

    def _try_lock(self, watch: Watch) -> LeaderLock | None:
        session = watch.direct_reader().session
        found = require_own_server_session(session, declared=self.direct is not None)
        if found.behind_pooler:
            # Before any try: a lock that such a pooler leaked would stay with its server.
            self._require_exclusion(session)
        session.protect()
        lock = LeaderLock(session, self.settings.lock_key)
        return lock if lock.try_acquire() else None

    def _is_done(self, lock: LeaderLock, watch: Watch, follower: Follower) -> bool:
        """With the lock in hand: did somebody finish, or fail, in the meantime?

        What an earlier leader left running is ended first: it may hold locks on our own tables.
        """
        try:
            self._require_exclusion(lock.session)
            lock.end_predecessors(self._say, Deadline(self.settings.wait_timeout))
            reading = watch.direct_reader().read_carefully()
            done = follower.judge(reading) is Verdict.READY
        except BaseException:
            with suppress(LockLost):
                lock.release()
            raise
        if done:
            lock.release()
        return done

    def _require_exclusion(self, session: Session) -> None:
        with self._connect("safe_init probe") as second:
            require_exclusion(session, second)

    def _check_once(self, lock: LeaderLock) -> None:
        """The system checks, in the leader alone: each may need a connection of its own."""
        if self._checked:
            return
        try:
            self.request.before_leading()
        except BaseException:
            with suppress(LockLost):
                lock.release()
            raise
        self._checked = True

    def _connect(self, name: str) -> Session:
        wrapper = make_wrapper(self.database, self.direct)
        return connect(wrapper, self.settings, self.deadline, name, self._say)

    def _lead(self, lock: LeaderLock) -> Outcome:
        # Here, because the start of a replica that has nothing to do should not pay for it.
        from django_safe_init.leader import Leader

        self.role = "leader"
        self._waited = time.monotonic() - self._started
        work = self.request.work
        leader = Leader(
            lock,
            self.build,
            self.settings,
            self.machine,
            work,
            self.direct,
            self.lost,
        )
        try:
            leader.lead()
        except (SafeInitError, KeyboardInterrupt):
            raise
        except (Exception, SystemExit) as exc:
            raise InitializationFailed(
                leader.reason(exc),
                applied=(*self.applied, *leader.applied),
                failed_migration=leader.failed_migration,
                run=leader.recorder.run,
            ) from exc
        finally:
            self.applied += leader.applied
            self.run_id = leader.recorder.run or self.run_id
        return self.outcome("ready")

    def _ready(self, reading: Reading) -> Outcome:
        self.machine.to(State.READY)
        run = reading.own or reading.latest
        self.run_id = run.id if run is not None else None
        return self.outcome("ready")


def initialize(
    database: str = "default", *, mode: str | None = None, timeout: float | None = None
) -> Outcome:
    """Initialize the database, or wait until another process has: what `safe_migrate` does.

    `mode` is "self", "external" or "off" (None: the setting `MODE`), `timeout` the seconds all
    waiting may take (None: the setting `MAX_WAIT`). Prints nothing, installs no signal
    handler. Returns when this build is ready; raises a `SafeInitError` for everything else:
    `InitializationFailed`, `LeaderFailed`, `WaitTimeout`, `DatabaseUnreachable`, `LockLost`,
    `UnsafeConnection`, `ConfigurationError`.

    While it leads, new connections of this thread, and of threads started meanwhile, to the
    alias belong to the run. Call it before a process serves requests.
    """
    work = Work(migrate=lambda: run_migrate(database), command="initialize")
    return Initializer(Request(work, database, mode=mode, timeout=timeout)).run()
