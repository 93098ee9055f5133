"""Initialize one database in this process: the fast path, an election, and restarts."""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Callable

from django.db import OperationalError

from django_safe_init.backends import (
    get_backend,
    get_backend_class,
    get_features,
    privileged_steps,
)
from django_safe_init.backends.base.backend import LockingBackend
from django_safe_init.backends.base.context import Context
from django_safe_init.backends.base.observer import BaseObserver
from django_safe_init.conf import Settings, effective_mode, get_settings
from django_safe_init.core.build import current_build
from django_safe_init.core.cancellation import sleep
from django_safe_init.core.databases import check_alias, check_outside_transaction
from django_safe_init.core.deadline import Deadline, check_timeout
from django_safe_init.core.records import (
    ConnectionEnded,
    TablesLocked,
    TablesUnreadable,
)
from django_safe_init.core.states import State, StateMachine
from django_safe_init.core.step import StepDefinition
from django_safe_init.core.text import one_line
from django_safe_init.exceptions import (
    ConfigurationError,
    DatabaseUnreachable,
    InitializationFailed,
    LockLost,
    LoginRefused,
)
from django_safe_init.initialization.run_context import in_run, run_context
from django_safe_init.initialization.types import (
    InitializationOptions,
    Outcome,
    Progress,
)
from django_safe_init.pools.router import check_outside_using_pool

logger = logging.getLogger("django_safe_init")

#: Attempts to read the state of the privileged steps before that counts as impossible.
_ATTEMPTS_AT_PRIVILEGED = 5


def wait_for_server(
    database: str, report: Callable[[str], None], timeout: float | None = None
) -> None:
    """Return as soon as the database's server accepts a connection, if it has a server.

    `timeout` is in seconds; None for the setting `MAX_WAIT`. Raises `DatabaseUnreachable`.
    """
    if get_features(database).is_supported:
        settings = get_settings()
        deadline = Deadline(settings.max_wait if timeout is None else timeout)
        context = Context(database, current_build(), settings, deadline, report)
        get_backend(context).wait_for_server()


def _check_no_event_loop() -> None:
    """Raise `ConfigurationError` in an event loop.

    Django refuses the database there, and a run that meets that would fail for all processes.
    """
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
    """Call again while Django gets no connection because the server is full or starting.

    Raises `DatabaseUnreachable` after `WAIT_TIMEOUT`, and for any other `OperationalError`.
    """
    patience = Deadline(get_settings().wait_timeout)
    while True:
        try:
            return call()
        except OperationalError as exc:
            if patience.passed() or not _is_busy(database, exc):
                raise DatabaseUnreachable(
                    f"The database {database!r} failed: {one_line(exc)}"
                ) from exc
            report(f"waiting for the server: {one_line(exc)}")
            sleep(random.uniform(0.1, 2.0))


def _is_busy(database: str, error: OperationalError) -> bool:
    supported = get_features(database).is_supported
    return supported and get_backend_class(database).is_busy(error)


class Initializer:
    """One process's initialization of one database, with its restarts."""

    def __init__(self, options: InitializationOptions) -> None:
        self.options = options
        self.database = options.database
        self.progress = Progress(options, StateMachine(options.database))

    def run(self) -> Outcome:
        """Initialize, or wait until another process has. Raises only `SafeInitError`s.

        A `KeyboardInterrupt` ends it cleanly: the statement is cancelled, the run is closed
        as interrupted, and the lock is free.
        """
        settings = self._check()
        if self.mode == "off" or not get_features(self.database).has_lock:
            return self._run_unprotected()
        machine, restarts = self.progress.machine, 0
        while True:
            try:
                return self._try_once()
            except (LockLost, ConnectionEnded) as exc:
                machine.transition_to(State.ERROR)
                restarts += 1
                if restarts > settings.restarts:
                    raise LockLost(
                        f"Lost the leader lock {restarts} times, the last time: {one_line(exc)}"
                    ) from exc
                self.progress.lost.reason = one_line(exc)
                self.progress.report(f"{one_line(exc)} Starting over.")
            except BaseException:
                machine.transition_to(State.ERROR)
                raise

    def outcome(self, result: str, error: str | None = None) -> Outcome:
        """Return the outcome as of now."""
        return self.progress.outcome(result, error)

    def _run_unprotected(self) -> Outcome:
        """Run the task as plain Django would."""
        self.options.on_lock_acquired()
        try:
            with run_context(self.database, None):
                self.options.task.migrate()
        except (Exception, SystemExit) as exc:
            text = f"{type(exc).__name__}: {one_line(exc)}"
            raise InitializationFailed(text) from exc
        return self.progress.outcome("ready")

    def _check(self) -> Settings:
        """Raise `ConfigurationError` where an initialization cannot begin."""
        _check_no_event_loop()
        settings = get_settings()
        self.mode = effective_mode(settings, self.options.mode)
        requested = self.options.timeout
        timeout = settings.max_wait if requested is None else requested
        check_timeout(timeout)
        if in_run(self.database):
            raise ConfigurationError(
                f"A migration of {self.database!r} must not initialize {self.database!r}."
            )
        check_alias(self.database)
        deadline = Deadline(timeout)
        if self.mode != "off":
            if settings.lock == "auto":
                get_backend_class(self.database)
            check_outside_transaction(self.database)
            check_outside_using_pool()
        self.context = Context(
            self.database, current_build(), settings, deadline, self.progress.report
        )
        return settings

    def _try_once(self) -> Outcome:
        self.progress.machine.transition_to(State.CONNECTING)
        backend = get_backend(self.context)
        assert isinstance(backend, LockingBackend)  # its features say so
        observer = backend.observer()
        try:
            run = self._already_initialized(observer)
            if (
                run is not None
                and self.options.follow_success
                and not self.options.force
            ):
                return self.progress.ready(run)
            # Imported here to keep the start with nothing to do fast.
            from django_safe_init.initialization.election import Election

            may_lead = self.mode != "external"
            return Election(backend, observer, self.progress, may_lead=may_lead).run()
        finally:
            observer.close()

    def _already_initialized(self, observer: BaseObserver) -> int | None:
        """Return the run that made this build ready, as one cheap query can tell.

        Raises `ConfigurationError` while a privileged step is pending.
        """
        answered = self._check_privileged()
        try:
            run = self._finished_run(observer)
        except LoginRefused as exc:
            self._add_privileged_hint(exc)
            raise
        if not answered:  # the server did not answer before; it does now
            self._recheck_privileged()
        return run

    def _finished_run(self, observer: BaseObserver) -> int | None:
        external = self.mode == "external"
        reader = observer.reader if external else observer.direct_reader
        try:
            return reader().finished_run()
        except (TablesLocked, TablesUnreadable):
            return None

    def _privileged_steps(self) -> tuple[StepDefinition, ...]:
        return privileged_steps(self.database, self.context.build)

    def _check_privileged(self) -> bool:
        """Refuse to begin while a privileged step is pending; return False without an answer."""
        steps = self._privileged_steps()
        if not steps or self.mode == "external":
            return True
        from django_safe_init.privileged.status import require_privileged

        context = self.context
        return require_privileged(
            self.database, steps, context.settings, context.deadline
        )

    def _recheck_privileged(self) -> None:
        """Check again; without an answer the steps do not count as done."""
        for _ in range(_ATTEMPTS_AT_PRIVILEGED):
            if self._check_privileged():
                return
            sleep(random.uniform(0.2, 1.0))
        raise DatabaseUnreachable(
            f"The server of the database {self.database!r} gave no second connection, by which to "
            "see whether an administrator's work is done. Raise max_connections, or start again."
        )

    def _add_privileged_hint(self, refusal: LoginRefused) -> None:
        if self._privileged_steps():
            from django_safe_init.privileged.status import add_hint

            raise add_hint(refusal) from refusal
