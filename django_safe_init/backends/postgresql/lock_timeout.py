"""Limit how long a migration waits for a lock on PostgreSQL, and find the blockers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import psycopg
from django.db.backends.base.base import BaseDatabaseWrapper

from django_safe_init.backends.base.run_session import BaseLockTimeout
from django_safe_init.backends.postgresql.activity import blockers_of, how_to_end
from django_safe_init.backends.postgresql.errors import session_error
from django_safe_init.backends.postgresql.project_connection import plain_rows
from django_safe_init.backends.postgresql.run_connections import FencedConnections
from django_safe_init.backends.postgresql.session import Session
from django_safe_init.conf import LockTimeoutPolicy, Settings
from django_safe_init.core.deadline import Deadline
from django_safe_init.core.records import Blocker
from django_safe_init.core.text import exception_chain

#: The maximum of `lock_timeout` (PostgreSQL manual, 19.11.1).
_MAX_MILLISECONDS = 2**31 - 1

_MILLISECONDS = (
    "SELECT setting FROM pg_catalog.pg_settings"
    " WHERE name OPERATOR(pg_catalog.=) 'lock_timeout'"
)
_CURRENT = "SELECT pg_catalog.current_setting('lock_timeout')"
_CHANGE = "SELECT pg_catalog.set_config('lock_timeout', %s, false)"


class PostgresLockTimeout(BaseLockTimeout):
    """The limit on lock waits, as PostgreSQL's parameter `lock_timeout`."""

    def __init__(
        self,
        settings: Settings,
        session: Session,
        fenced: FencedConnections,
        deadline: Deadline,
    ) -> None:
        seconds = settings.ddl_lock_timeout
        self.policy = (
            None
            if seconds is None
            else LockTimeoutPolicy(seconds, settings.ddl_attempts)
        )
        self.deadline = deadline
        self._session = session
        self._fenced = fenced

    @property
    def timeout(self) -> str | None:
        """Return the `lock_timeout` of a migration, or None to keep the session's value."""
        if self.policy is None:
            return None
        return f"{min(max(1, round(self.policy.seconds * 1000)), _MAX_MILLISECONDS)}ms"

    def respect(self, connection: BaseDatabaseWrapper) -> None:
        """Let a shorter `lock_timeout` of the connection be the limit."""
        if self.policy is None:
            return
        [(text,)] = plain_rows(connection, _MILLISECONDS)
        seconds = int(text) / 1000
        if 0 < seconds < self.policy.seconds:
            self.policy = replace(self.policy, seconds=seconds)

    @contextmanager
    def limited(self, connection: BaseDatabaseWrapper) -> Iterator[None]:
        """Set `lock_timeout` in the session, and restore it unless the block raises.

        After an error the run ends, and the connection with it.
        """
        [(before,)] = plain_rows(connection, _CURRENT)
        plain_rows(connection, _CHANGE, [self.timeout])
        yield
        plain_rows(connection, _CHANGE, [before])

    def is_timeout(self, error: BaseException) -> bool:
        return any(
            isinstance(cause, psycopg.errors.LockNotAvailable)
            for cause in exception_chain(error)
        )

    def blockers(self) -> tuple[Blocker, ...]:
        try:
            return blockers_of(self._session, self._fenced.backend_pid)
        except psycopg.Error as exc:
            raise session_error(exc) from exc

    def how_to_end(self, blocker: Blocker) -> str:
        return how_to_end(blocker)
