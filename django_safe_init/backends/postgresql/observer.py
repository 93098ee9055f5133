"""Wait as a follower on PostgreSQL: on a session that is kept, or on short ones."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from django_safe_init.backends.base.context import Context
from django_safe_init.backends.base.observer import BaseObserver
from django_safe_init.backends.postgresql.connect import connect, create_direct_wrapper
from django_safe_init.backends.postgresql.errors import translate_errors
from django_safe_init.backends.postgresql.lock_keys import channel
from django_safe_init.backends.postgresql.reader import PostgresReader
from django_safe_init.backends.postgresql.session import Session
from django_safe_init.core.cancellation import check, sleep, slices
from django_safe_init.core.records import LeaderSnapshot

if TYPE_CHECKING:
    from django_safe_init.backends.postgresql.stalled import StalledLeader

#: All followers together may keep half of the server's slots.
_ROOM = """
    SELECT (SELECT sum(numbackends) FROM pg_stat_database) * 2
           <= current_setting('max_connections')::int, pg_backend_pid()
"""
#: For how long an answer to that is valid.
_SECONDS_OF_ROOM = 10.0


class PostgresObserver(BaseObserver):
    """Keeps a session, and listens on it, while the server has room.

    Without room each poll is a short connection. A client's connection to a pooler is cheap:
    it is kept, and polls.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.session: Session | None = None
        self._is_direct = False
        self._reader: PostgresReader | None = None
        self._pooled = False
        self._listening = False
        self._room_seen = 0.0
        self._stalled: StalledLeader | None = None

    def reader(self) -> PostgresReader:
        """Return a reader on the present session, or on a new one, perhaps through a pooler."""
        if self._is_direct and self.context.direct:
            self.close()  # only a leader needs the connection past the pooler
        if self.session is None:
            self._open(None)
        return self._current_reader()

    def direct_reader(self) -> PostgresReader:
        if self.session is None or not self._is_direct:
            self.close()
            self._open(self.context.direct)
            self._is_direct = True
        return self._current_reader()

    def _open(self, direct: Mapping[str, Any] | None) -> None:
        context = self.context
        self.session = connect(
            create_direct_wrapper(context.alias, direct),
            context.settings,
            context.deadline,
            "safe_init waiting",
            context.report,
        )

    def _current_reader(self) -> PostgresReader:
        check()
        assert self.session is not None
        if self._reader is None:
            self._reader = PostgresReader(
                self.session, self.context.build, self.context.settings.lock_key
            )
        self._reader.session = self.session
        return self._reader

    def end_stalled(self, snapshot: LeaderSnapshot) -> bool:
        settings = self.context.settings
        if settings.stalled_after is None:
            return False
        # Imported here to keep start-up fast.
        from django_safe_init.backends.postgresql.stalled import StalledLeader

        self._stalled = self._stalled or StalledLeader(
            settings.stalled_after,
            settings.lock_key,
            lambda: self.direct_reader().session,
            self.context.report,
        )
        with translate_errors():
            return self._stalled.end(self.reader().session, snapshot)

    def how_to_end(self, leader_pid: int) -> str:
        return (
            f"manage.py safe_init_unlock --database {self.context.alias}, "
            f"or SELECT pg_terminate_backend({leader_pid});"
        )

    def wait(self) -> None:
        """Wait for the leader's notification, or until the next poll is due."""
        with translate_errors():
            self._wait()

    def _wait(self) -> None:
        deadline = self.context.deadline
        if self.session is not None and self._may_keep(self.session):
            seconds = deadline.clip(random.uniform(0.5, 1.0))
            if self._listening:
                _listen(self.session, seconds)
            else:
                sleep(seconds)
            return
        self.close()
        # Each poll costs the server a connection, so most followers poll rarely. A few poll
        # often, so that a dead leader is noticed.
        rarely = random.random() < 0.875
        sleep(deadline.clip(random.uniform(2.0, 3.0) if rarely else 0.75))

    def _may_keep(self, session: Session) -> bool:
        if self._pooled or time.monotonic() - self._room_seen < _SECONDS_OF_ROOM:
            return True
        [(room, pid)] = session.read(_ROOM)
        self._pooled = pid != session.handshake_pid
        if not room and not self._pooled:
            return False
        self._room_seen = time.monotonic()
        if not self._listening and not self._pooled:
            session.apply_session_settings()
            session.rows(f"LISTEN {channel(self.context.settings.lock_key)}")
            self._listening = True
        return True

    def close(self) -> None:
        if self.session is not None:
            self.session.close()
        self.session = None
        self._room_seen = 0.0
        self._listening = self._is_direct = self._pooled = False


def _listen(session: Session, seconds: float) -> None:
    for part in slices(seconds):
        if list(session.raw.notifies(timeout=part, stop_after=1)):
            return
