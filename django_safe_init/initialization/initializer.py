"""Initialize one database in this process: the fast path, an election, and restarts."""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Callable, Iterator
from contextlib import closing

from django.db import OperationalError, connections

from django_safe_init.backends import (
    get_backend,
    get_backend_class,
    get_features,
    privileged_steps,
    require_lock,
)
from django_safe_init.backends.base.backend import LockingBackend
from django_safe_init.backends.base.context import Context
from django_safe_init.backends.base.observer import BaseObserver
from django_safe_init.conf import Settings, effective_mode, get_settings
from django_safe_init.core.attempts import repeat
from django_safe_init.core.build import current_build
from django_safe_init.core.cancellation import sleep
from django_safe_init.core.databases import check_alias, check_outside_transaction
from django_safe_init.core.deadline import Deadline, check_timeout, connect_pauses
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
from django_safe_init.initialization.release import ReceiverPolicy
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
    call: Callable[[], None],
    database: str,
    report: Callable[[str], None],
    deadline: Deadline,
) -> None:
    """Call again while the server is full or starting, or has ended Django's connection.

    Raises `DatabaseUnreachable` after `WAIT_TIMEOUT` or the last of `CONNECT_ATTEMPTS`, at the
    deadline, and for any other `OperationalError`.
    """
    patience = Deadline(deadline.clip(get_settings().wait_timeout))
    pauses = connect_pauses(get_settings())
    while True:
        try:
            return call()
        except OperationalError as exc:
            pause = _pause_before_retry(database, exc, pauses)
            if pause is None or patience.passed():
                raise DatabaseUnreachable(
                    f"The database {database!r} failed: {one_line(exc)}"
                ) from exc
            report(f"waiting for the server: {one_line(exc)}")
            sleep(patience.clip(pause))
            _close_unusable_connections()


def _pause_before_retry(
    database: str, error: OperationalError, pauses: Iterator[float]
) -> float | None:
    """Return the seconds to wait before the next call, or None if it would fail too."""
    if not get_features(database).is_supported:
        return None
    backend = get_backend_class(database)
    if backend.is_busy(error):
        return random.uniform(0.1, 2.0)
    return next(pauses, None) if backend.is_connection_loss(error) else None


def _close_unusable_connections() -> None:
    for wrapper in connections.all(initialized_only=True):
        wrapper.close_if_unusable_or_obsolete()


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
            return self._run_without_lock()
        return repeat(
            self._try_once,
            settings,
            self.context.deadline,
            self.progress.report,
            "the leader lock",
        )

    def outcome(self, result: str, error: str | None = None) -> Outcome:
        """Return the outcome as of now."""
        return self.progress.outcome(result, error)

    def _run_without_lock(self) -> Outcome:
        """Run the task as plain Django would, or wait until another process has."""
        is_private = get_features(self.database).is_private
        if self.mode == "external" and not is_private:
            from django_safe_init.initialization.unlocked import wait_until_ready

            return wait_until_ready(self.context, self.progress)
        if self.options.run_checks is not None:
            self.options.run_checks(self.context.deadline)
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
        deadline = self.options.deadline or Deadline(timeout)
        if self.mode != "off":
            if settings.lock == "auto" and self.mode == "self":
                require_lock(self.database)
            check_outside_transaction(self.database)
            check_outside_using_pool()
        self.context = Context(
            self.database, current_build(), settings, deadline, self.progress.report
        )
        # Readiness is about migrations and steps. A process that never leads needs no more.
        is_external = self.mode == "external"
        self.policy = ReceiverPolicy() if is_external else ReceiverPolicy.of(settings)
        return settings

    def _try_once(self) -> Outcome:
        machine = self.progress.machine
        machine.transition_to(State.CONNECTING)
        try:
            return self._lead_or_follow()
        except BaseException as exc:
            machine.transition_to(State.ERROR)
            if isinstance(exc, (LockLost, ConnectionEnded)):
                self.progress.lost.reason = one_line(exc)
            raise

    def _lead_or_follow(self) -> Outcome:
        backend = get_backend(self.context)
        assert isinstance(backend, LockingBackend)  # its features say so
        with backend.translated_errors(), closing(backend.observer()) as observer:
            run = self._already_initialized(observer)
            if (
                run is not None
                and self.options.follow_success
                and not self.options.must_run
            ):
                return self.progress.ready(run)
            # Imported here to keep the start with nothing to do fast.
            from django_safe_init.initialization.election import Election

            may_lead = self.mode != "external"
            return Election(
                backend, observer, self.progress, self.policy, may_lead=may_lead
            ).run()

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
            run = reader().finished_run(self.policy.release)
        except (TablesLocked, TablesUnreadable):
            return None
        return None if self.policy.always else run

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
            sleep(self.context.deadline.clip(random.uniform(0.2, 1.0)))
        raise DatabaseUnreachable(
            f"The server of the database {self.database!r} gave no second connection, by which to "
            "see whether an administrator's work is done. Raise max_connections, or start again."
        )

    def _add_privileged_hint(self, refusal: LoginRefused) -> None:
        if self._privileged_steps():
            from django_safe_init.privileged.status import add_hint

            raise add_hint(refusal) from refusal
