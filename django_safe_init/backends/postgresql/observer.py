"""How a follower looks at a database: on a session that it keeps, or on short ones."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from django_safe_init.backends.postgresql.lock_keys import channel
from django_safe_init.backends.postgresql.reader import PostgresReader
from django_safe_init.backends.postgresql.session import (
    Session,
    connect,
    create_direct_wrapper,
    translate_errors,
)
from django_safe_init.conf import Settings
from django_safe_init.core.build import Build
from django_safe_init.core.cancellation import check, sleep, slices
from django_safe_init.core.deadline import Deadline
from django_safe_init.core.records import LeaderSnapshot

if TYPE_CHECKING:
    from django_safe_init.backends.postgresql.stalled import StalledLeader

logger = logging.getLogger("django_safe_init")

#: Half of the server's slots is what all followers together may keep.
_ROOM = """
    SELECT (SELECT sum(numbackends) FROM pg_stat_database) * 2
           <= current_setting('max_connections')::int, pg_backend_pid()
"""
#: For how long an answer to that holds.
_SECONDS_OF_ROOM = 10.0


class PostgresObserver:
    """A follower's eyes.

    On the server itself, a session is kept, and listens, only while the server has room;
    otherwise each look is a short connection. A client's connection to a pooler is cheap: it
    is kept, and looks.
    """

    def __init__(
        self,
        alias: str,
        build: Build,
        settings: Settings,
        deadline: Deadline,
        report: Callable[[str], None] = logger.info,
    ) -> None:
        self.alias = alias
        self.settings = settings
        self.deadline = deadline
        self.report = report
        self.session: Session | None = None
        self._build = build
        self._is_direct = False
        self._reader: PostgresReader | None = None
        self._pooled = False
        self._listening = False
        self._room_seen = 0.0
        self._stalled: StalledLeader | None = None

    def reader(self) -> PostgresReader:
        """A reader on the session there is, or on a new one, which may go through a pooler."""
        if self._is_direct and self.settings.direct.get(self.alias):
            self.close()  # the way past the pooler is for whoever leads
        if self.session is None:
            self._open(None)
        return self._current_reader()

    def direct_reader(self) -> PostgresReader:
        """A reader on a session that goes straight to the server and may hold a lock."""
        if self.session is None or not self._is_direct:
            self.close()
            self._open(self.settings.direct.get(self.alias))
            self._is_direct = True
        return self._current_reader()

    def _open(self, direct: Mapping[str, Any] | None) -> None:
        wrapper = create_direct_wrapper(self.alias, direct)
        self.session = connect(
            wrapper, self.settings, self.deadline, "safe_init waiting", self.report
        )

    def _current_reader(self) -> PostgresReader:
        check()
        assert self.session is not None
        if self._reader is None:
            self._reader = PostgresReader(
                self.session, self._build, self.settings.lock_key
            )
        self._reader.session = self.session
        return self._reader

    def end_stalled(self, glance: LeaderSnapshot) -> bool:
        """Whether there was a leader without a sign of life and it has been ended just now."""
        if self.settings.stalled_after is None:
            return False
        from django_safe_init.backends.postgresql.stalled import StalledLeader

        self._stalled = self._stalled or StalledLeader(self, self.report)
        with translate_errors():
            return self._stalled.end(self.reader().session, glance)

    def how_to_end(self, leader_pid: int) -> str:
        """The commands that end the leader, for a person."""
        return (
            f"manage.py safe_init_unlock --database {self.alias}, "
            f"or SELECT pg_terminate_backend({leader_pid});"
        )

    def pause(self) -> None:
        """Until the leader says that it has ended, or until it is time to look again."""
        with translate_errors():
            self._pause()

    def _pause(self) -> None:
        if self.session is not None and self._may_keep(self.session):
            seconds = self.deadline.clip(random.uniform(0.5, 1.0))
            if self._listening:
                _listen(self.session, seconds)
            else:
                sleep(seconds)
            return
        self.close()
        # Most look rarely, since each look costs the server a connection; a few look often,
        # so that a dead leader is seen.
        slow = random.random() < 0.875
        sleep(self.deadline.clip(random.uniform(2.0, 3.0) if slow else 0.75))

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
            session.rows(f"LISTEN {channel(self.settings.lock_key)}")
            self._listening = True
        return True

    def close(self) -> None:
        """Give the connection back."""
        if self.session is not None:
            self.session.close()
        self.session = None
        self._room_seen = 0.0
        self._listening = self._is_direct = self._pooled = False


def _listen(session: Session, seconds: float) -> None:
    for part in slices(seconds):
        if list(session.raw.notifies(timeout=part, stop_after=1)):
            return
