"""Lead or follow: what `safe_migrate`, `migrate` and `initialize` do for one database."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.db import OperationalError

from django_safe_init import backends
from django_safe_init.backends.postgresql.errors import is_busy
from django_safe_init.conf import effective_mode, get_settings
from django_safe_init.core.build import current_build
from django_safe_init.core.cancellation import sleep
from django_safe_init.core.databases import (
    BackendKind,
    check_alias,
    check_outside_transaction,
    engine_of,
    require_engine,
)
from django_safe_init.core.deadline import Deadline, check_timeout
from django_safe_init.core.records import (
    ConnectionEnded,
    LostRuns,
    TablesLocked,
    TablesUnreadable,
)
from django_safe_init.core.states import State, StateMachine
from django_safe_init.core.text import one_line
from django_safe_init.exceptions import (
    ConfigurationError,
    DatabaseUnreachable,
    InitializationFailed,
    LockLost,
    LoginRefused,
)
from django_safe_init.initialization.migrate_command import run_migrate
from django_safe_init.initialization.run_context import MigrateTask, in_run, run_context
from django_safe_init.pools.router import check_outside_using_pool

if TYPE_CHECKING:
    from django_safe_init.backends.base.backend import BaseObserver

logger = logging.getLogger("django_safe_init")

#: Until a process believes that it cannot be seen whether an administrator's work is done.
_LOOKS_AT_PRIVILEGED = 5


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
class InitializationOptions:
    """What is wanted of an initialization."""

    work: MigrateTask
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


def wait_for_server(
    database: str, report: Callable[[str], None], timeout: float | None = None
) -> None:
    """Return as soon as the server of the alias answers, if it has one.

    `timeout` is in seconds; None for the setting `MAX_WAIT`. Raises `DatabaseUnreachable`.
    """
    if engine_of(database) is not BackendKind.POSTGRESQL:
        return
    from django_safe_init.backends.postgresql.session import (
        connect,
        create_direct_wrapper,
    )

    settings = get_settings()
    wrapper = create_direct_wrapper(database, settings.direct.get(database))
    deadline = Deadline(settings.max_wait if timeout is None else timeout)
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
            "Call the other one there: await ainitialize()."
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
            sleep(random.uniform(0.1, 2.0))


class Initializer:
    """One process's initialization of one database."""

    def __init__(self, request: InitializationOptions) -> None:
        self.request = request
        self.database = request.database
        self.role = "none"
        self.run_id: int | None = None
        self.applied: tuple[str, ...] = ()
        self._started = time.monotonic()
        self.checked = False
        self._waited: float | None = None
        self.lost = LostRuns()

    def run(self) -> Outcome:
        """Initialize, or wait until somebody has. Raises a `SafeInitError` for every failure.

        A `KeyboardInterrupt` ends it cleanly: the statement is cancelled, the run is closed
        as interrupted, and the lock is free.
        """
        self._prepare()
        if self.mode == "off" or not engine_of(self.database).has_lock:
            return self._unprotected()
        restarts = 0
        while True:
            try:
                return self._attempt()
            except (LockLost, ConnectionEnded) as exc:
                self.machine.to(State.ERROR)
                restarts += 1
                if restarts > self.settings.restarts:
                    raise LockLost(
                        f"Lost the leader lock {restarts} times, the last time: {one_line(exc)}"
                    ) from exc
                self.lost.reason = one_line(exc)
                self.say(f"{one_line(exc)} Starting over.")
            except BaseException:
                self.machine.to(State.ERROR)
                raise

    def _unprotected(self) -> Outcome:
        """Django as it is."""
        self.request.before_leading()
        try:
            with run_context(self.database, None):
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
        check_timeout(timeout)
        if in_run(self.database):
            raise ConfigurationError(
                f"A migration of {self.database!r} must not initialize {self.database!r}."
            )
        self.deadline = Deadline(timeout)
        check_alias(self.database)
        if self.mode != "off":
            if self.settings.lock == "auto":
                require_engine(self.database)
            check_outside_transaction(self.database)
            check_outside_using_pool()
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

    def say(self, line: str) -> None:
        """Tell the log, and the person who waits."""
        logger.info("%s: %s", self.database, line)
        self.request.work.report(line)

    def _attempt(self) -> Outcome:
        self.machine.to(State.CONNECTING)
        watch = backends.open_eyes(
            self.database, self.build, self.settings, self.deadline, self.say
        )
        try:
            seen = self._require_privileged()
            try:
                run = self._finished(watch)
            except LoginRefused as exc:
                self._hint_at_the_administrator(exc)
                raise
            if not seen:  # the server did not answer then; now it has
                self._insist_on_privileged()
            if (
                run is not None
                and self.request.accepts_success
                and not self.request.force
            ):
                return self.ready(run)
            # Here, because the start of a replica with nothing to do should not pay for it.
            from django_safe_init.initialization.election import Election

            return Election(self, backends.open_engine(self, watch)).run()
        finally:
            watch.close()

    def _require_privileged(self) -> bool:
        """Refuse to begin without what only an administrator may do; False if nobody answers."""
        steps = self.build.privileged_of(self.database)
        if not steps or self.mode == "external":
            return True
        from django_safe_init.privileged.status import require_privileged

        return require_privileged(self.database, steps, self.settings, self.deadline)

    def _insist_on_privileged(self) -> None:
        """The same once more; without an answer nothing is believed."""
        for _ in range(_LOOKS_AT_PRIVILEGED):
            if self._require_privileged():
                return
            sleep(random.uniform(0.2, 1.0))
        raise DatabaseUnreachable(
            f"The server of the database {self.database!r} gave no second connection, by which to "
            "see whether an administrator's work is done. Raise max_connections, or start again."
        )

    def _hint_at_the_administrator(self, refusal: LoginRefused) -> None:
        if self.build.privileged_of(self.database):
            from django_safe_init.privileged.status import add_hint

            raise add_hint(refusal) from refusal

    def _finished(self, watch: BaseObserver) -> int | None:
        """The run that has made this build ready, as one cheap query can tell."""
        reader = watch.reader if self.mode == "external" else watch.direct_reader
        try:
            return reader().finished_run()
        except (TablesLocked, TablesUnreadable):
            return None

    def leads(self) -> None:
        """The waiting is over: this process leads."""
        self.role = "leader"
        self._waited = time.monotonic() - self._started

    def ready(self, run: int | None) -> Outcome:
        """This build is ready, by that run."""
        self.machine.to(State.READY)
        self.run_id = run
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
    work = MigrateTask(migrate=lambda: run_migrate(database), command="initialize")
    return Initializer(
        InitializationOptions(work, database, mode=mode, timeout=timeout)
    ).run()
