"""How long a migration waits for a lock on PostgreSQL, and for whom."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from django.db.backends.base.base import BaseDatabaseWrapper

from django_safe_init.backends.postgresql.activity import blockers_of
from django_safe_init.backends.postgresql.run_connections import FencedConnections
from django_safe_init.backends.postgresql.session import Session, session_error
from django_safe_init.conf import LockTimeoutPolicy, Settings
from django_safe_init.core.records import Blocker
from django_safe_init.core.text import exception_chain

#: The greatest `lock_timeout` (PostgreSQL manual, 19.11.1).
_MOST_MILLISECONDS = 2**31 - 1


class PostgresLockTimeout:
    """See `engines.base.LockWaits`."""

    def __init__(
        self, settings: Settings, session: Session, armed: FencedConnections
    ) -> None:
        seconds = settings.ddl_lock_timeout
        self.limits = (
            None
            if seconds is None
            else LockTimeoutPolicy(seconds, settings.ddl_attempts)
        )
        self._session = session
        self._armed = armed

    @property
    def timeout(self) -> str | None:
        """The `lock_timeout` of a migration; None for that of its session."""
        if self.limits is None:
            return None
        return f"{min(max(1, round(self.limits.seconds * 1000)), _MOST_MILLISECONDS)}ms"

    @contextmanager
    def limited(self, connection: BaseDatabaseWrapper) -> Iterator[None]:
        """While entered, no statement of the connection waits for longer.

        After an error it stays so: the connection belongs to the run, which ends with it.
        """
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_setting('lock_timeout')")
            [(before,)] = cursor.fetchall()
            cursor.execute(
                "SELECT set_config('lock_timeout', %s, false)", [self.timeout]
            )
        yield
        with connection.cursor() as cursor:
            cursor.execute("SELECT set_config('lock_timeout', %s, false)", [before])

    def is_timeout(self, error: BaseException) -> bool:
        """Whether a lock that was not to be had is what caused the error."""
        return any(
            isinstance(cause, psycopg.errors.LockNotAvailable)
            for cause in exception_chain(error)
        )

    def blockers(self) -> tuple[Blocker, ...]:
        """The sessions that the migrating one waits for at this moment."""
        try:
            return blockers_of(self._session, self._armed.backend_pid)
        except psycopg.Error as exc:
            raise session_error(exc) from exc
