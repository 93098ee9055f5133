"""Run the privileged phase in an administrator's process."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, TypeVar

import psycopg
from django.db import Error, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from django_safe_init.backends import get_features, privileged_steps
from django_safe_init.backends.postgresql.connect import connect, create_direct_wrapper
from django_safe_init.backends.postgresql.connection_checks import (
    check_direct_connection,
    check_lock_excludes,
)
from django_safe_init.backends.postgresql.connection_limits import check_limits
from django_safe_init.backends.postgresql.errors import (
    is_connection_loss,
    is_read_only,
    is_time_out,
)
from django_safe_init.backends.postgresql.lock_holders import UNSEEN, key_holders
from django_safe_init.backends.postgresql.lock_keys import privileged_key
from django_safe_init.backends.postgresql.project_connection import (
    pinned_rows,
    plain_rows,
)
from django_safe_init.backends.postgresql.session import Session
from django_safe_init.conf import Settings, get_settings
from django_safe_init.core.attempts import repeat
from django_safe_init.core.build import current_build
from django_safe_init.core.cancellation import check, sleep
from django_safe_init.core.deadline import Deadline
from django_safe_init.core.step import StepDefinition
from django_safe_init.core.text import exception_chain, name_some, one_line
from django_safe_init.exceptions import (
    ConfigurationError,
    DatabaseUnreachable,
    InitializationFailed,
    LockLost,
    ReadOnlyServer,
    SafeInitError,
    WaitTimeout,
)
from django_safe_init.privileged.status import context_of, pending

logger = logging.getLogger("django_safe_init")

T = TypeVar("T")
Report = Callable[[str], None]

#: Added to `statement_timeout`, so that the deadline has passed when a statement is canceled.
_GRACE_MILLISECONDS = 20
#: The maximum of PostgreSQL's type `integer`.
_MAX_MILLISECONDS = 2**31 - 1

_TRY_LOCK = "SELECT pg_catalog.pg_try_advisory_lock(%s)"
_UNLOCK = "SELECT pg_catalog.pg_advisory_unlock(%s)"


class PrivilegedStepRunner:
    """Runs the privileged steps of one database with the credentials of `PRIVILEGED_DATABASE`."""

    def __init__(self, alias: str, timeout: float | None, report: Report) -> None:
        self.alias = alias
        self.settings = get_settings()
        self.administrator = administrator_alias(self.settings)
        self.steps = privileged_steps(alias, current_build())
        self.report = report
        self._deadline = Deadline(
            self.settings.max_wait if timeout is None else timeout
        )

    def plan(self) -> list[str]:
        """Return the labels of the pending steps."""
        return self._repeat(self._plan)

    def run(self) -> None:
        """Run all steps under an advisory lock of the maintenance database, then verify them.

        A second administrator's process waits for the lock, then runs all steps again.
        PostgreSQL cancels a statement at the deadline. After a lost connection, and while the
        server is read-only, all steps run again. Raise a `SafeInitError`.
        """
        self._repeat(self._run)

    def _repeat(self, attempt: Callable[[], T]) -> T:
        return repeat(
            attempt,
            self.settings,
            self._deadline,
            self.report,
            "the administrator's connection",
        )

    def _plan(self) -> list[str]:
        with self._connections() as (connection, target):
            return pending(self.steps, self.alias, connection, target)

    def _run(self) -> None:
        with self._connections() as (connection, target), self._locked(connection):
            for step in self.steps:
                check()
                self._run_step(step, connection, target)
            left = pending(self.steps, self.alias, connection, target)
        if left:
            raise InitializationFailed(
                f"Done, and not there afterwards: {name_some(left)}."
            )

    def _run_step(
        self,
        step: StepDefinition,
        connection: BaseDatabaseWrapper,
        target: Callable[[], BaseDatabaseWrapper],
    ) -> None:
        def limited_target() -> BaseDatabaseWrapper:
            return self._limit_statements(target())

        try:
            limited = self._limit_statements(connection)
            step.call(context_of(step, self.alias, limited, limited_target))
        except SafeInitError:
            raise
        except Exception as exc:
            _raise_if_lost(exc)
            if self._deadline.passed():
                raise WaitTimeout(
                    f"{step.label} was not done in the time there is: {one_line(exc)}. Somebody "
                    "may have a lock that it needs: look for it with pg_blocking_pids()."
                ) from exc
            text = f"{step.label}: {type(exc).__name__}: {one_line(exc)}"
            raise InitializationFailed(text, failed_migration=step.label) from exc
        self.report(f"step {step.label}: done")

    def _limit_statements(self, connection: BaseDatabaseWrapper) -> BaseDatabaseWrapper:
        """Set `statement_timeout` to the time left, unless waiting is unlimited."""
        if self._deadline.seconds is not None:
            left = self._deadline.clip(self._deadline.seconds)
            milliseconds = min(left * 1000 + _GRACE_MILLISECONDS, _MAX_MILLISECONDS)
            query = "SELECT pg_catalog.set_config('statement_timeout', %s, false)"
            plain_rows(connection, query, [str(math.ceil(milliseconds))])
        return connection

    @contextmanager
    def _connections(
        self,
    ) -> Iterator[tuple[BaseDatabaseWrapper, Callable[[], BaseDatabaseWrapper]]]:
        """Connect to the maintenance database, and on demand to the database to initialize."""
        with ExitStack() as stack, _translate_errors():
            self._wait_for_server()
            opened = self._create_wrapper()
            stack.callback(opened.close)
            opened.ensure_connection()
            found: list[BaseDatabaseWrapper] = []

            def target() -> BaseDatabaseWrapper:
                if not found:
                    name = connections[self.alias].settings_dict["NAME"]
                    made = self._create_wrapper(NAME=name)
                    stack.callback(made.close)
                    made.ensure_connection()
                    found.append(made)
                return found[0]

            yield opened, target

    def _create_wrapper(self, **changes: Any) -> BaseDatabaseWrapper:
        seconds = self._deadline.clip(self.settings.connect_timeout)
        return create_direct_wrapper(
            self.administrator, changes, connect_timeout=seconds
        )

    def _wait_for_server(self) -> None:
        """Wait until PostgreSQL answers, and check that no pooler breaks advisory locks."""
        with ExitStack() as stack:
            first = stack.enter_context(self._open_session())
            check_direct_connection(first, declared=False)
            check_limits(first)
            second = stack.enter_context(self._open_session())
            check_lock_excludes(first, second)

    def _open_session(self) -> Session:
        return connect(
            create_direct_wrapper(self.administrator),
            self.settings,
            self._deadline,
            "safe_init privileged",
            self.report,
        )

    @contextmanager
    def _locked(self, connection: BaseDatabaseWrapper) -> Iterator[None]:
        """Hold the advisory lock of the privileged phase on this connection.

        The steps run in the same session, so the lock lasts as long as their statements.
        """
        key = privileged_key(self.settings.lock_key)
        lock_deadline = Deadline(self.settings.wait_timeout)
        is_reported = False
        while not _query_bool(connection, _TRY_LOCK, key):
            if lock_deadline.passed() or self._deadline.passed():
                raise WaitTimeout(
                    "Another process did privileged work for too long: "
                    f"{_holders(connection, key)} (advisory lock {key}). End that session, and run "
                    "the phase again."
                )
            if not is_reported:
                self.report("waiting for another process that does privileged work")
                is_reported = True
            sleep(self._deadline.clip(random.uniform(0.1, 0.3)))
        try:
            yield
        finally:
            try:
                _query_bool(connection, _UNLOCK, key)
            except Error as exc:  # the session ended and released its lock
                logger.info("The privileged connection ended: %s", one_line(exc))


@contextmanager
def _translate_errors() -> Iterator[None]:
    try:
        yield
    except (Error, psycopg.Error) as exc:  # a step's errors are reported with its label
        _raise_if_lost(exc)
        raise DatabaseUnreachable(
            f"The administrator's connection ended: {one_line(exc)}. Run the phase again."
        ) from exc


def _raise_if_lost(error: Exception) -> None:
    """Raise the error after which all steps run again, if this is one."""
    text = one_line(error)
    if is_read_only(error):
        raise ReadOnlyServer(
            f"The administrator's server is read-only: {text}"
        ) from error
    chain = list(exception_chain(error))
    if any(map(is_connection_loss, chain)) and not any(map(is_time_out, chain)):
        raise LockLost(f"The administrator's connection ended: {text}") from error


def administrator_alias(settings: Settings) -> str:
    """Return the alias in `PRIVILEGED_DATABASE`. Raise `ConfigurationError` if it is invalid."""
    alias = settings.privileged_database
    if alias is None or alias not in connections.settings:
        named = "is not set" if alias is None else f"names {alias!r}"
        raise ConfigurationError(
            f'SAFE_INIT["PRIVILEGED_DATABASE"] {named}, and the privileged phase needs an alias '
            "of DATABASES with an administrator's credentials for the server."
        )
    if not get_features(alias).supports_privileged_steps:
        raise ConfigurationError(
            f"PRIVILEGED_DATABASE names {alias!r}, which is no PostgreSQL database."
        )
    return alias


def _query_bool(connection: BaseDatabaseWrapper, query: str, key: int) -> bool:
    [(found,)] = plain_rows(connection, query, [key])
    return bool(found)


def _holders(connection: BaseDatabaseWrapper, key: int) -> str:
    """Return the session that holds the advisory lock, for a person."""
    query = partial(pinned_rows, connection.connection)
    found = key_holders(query, key)
    return found[0].with_remedy if found else UNSEEN
