"""Wait as a follower on PostgreSQL."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from django_safe_init.backends.base.context import Context
from django_safe_init.backends.base.observer import BaseObserver
from django_safe_init.backends.postgresql.connect import connect, create_direct_wrapper
from django_safe_init.backends.postgresql.connection_limits import FREE_SLOTS
from django_safe_init.backends.postgresql.errors import translate_errors
from django_safe_init.backends.postgresql.lock_keys import channel
from django_safe_init.backends.postgresql.reader import PostgresReader
from django_safe_init.backends.postgresql.remedies import how_to_terminate
from django_safe_init.backends.postgresql.session import Session
from django_safe_init.core.cancellation import check, sleep, slices
from django_safe_init.core.records import PREPARED_PID, LeaderSnapshot

if TYPE_CHECKING:
    from django_safe_init.backends.postgresql.stalled import StalledLeader

#: The pause before a query, after a notification, grows between these limits, in seconds.
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.1, 1.0
#: The seconds for which an answer to `FREE_SLOTS` stays valid.
_FREE_SLOTS_SECONDS = 10.0


class PostgresObserver(BaseObserver):
    """A follower that keeps a session, and listens on it, while the server has free slots.

    Without free slots, each poll opens a short connection. A connection to a pooler is cheap, so
    the follower keeps it and polls.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.session: Session | None = None
        self._is_direct = False
        self._reader: PostgresReader | None = None
        self._pooled = False
        self._listening = False
        self._free_slots_at = 0.0
        self._least_pause = 0.0
        self._stalled: StalledLeader | None = None

    def reader(self) -> PostgresReader:
        """Return a reader on the open session, or on a new one that may use a pooler."""
        if self._is_direct and self.context.direct:
            self.close()  # only a leader needs a session that bypasses the pooler
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
        self.session.is_new = True

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

    def how_to_end(self, leader_pid: int) -> list[str]:
        if leader_pid == PREPARED_PID:
            return []  # the leader's description has the command
        return [*super().how_to_end(leader_pid), how_to_terminate(leader_pid)]

    def wait(self) -> None:
        with translate_errors():
            self._wait()

    def _wait(self) -> None:
        deadline = self.context.deadline
        if self.session is not None and self._may_keep(self.session):
            seconds = deadline.clip(random.uniform(0.5, 1.0))
            if self._listening:
                self._listen(self.session, seconds)
            else:
                sleep(seconds)
            return
        self.close()
        self.keeps_connection = False
        # Each poll costs the server a connection, so most followers poll rarely. A few poll
        # often, so that a dead leader is noticed.
        rarely = random.random() < 0.875
        sleep(deadline.clip(random.uniform(2.0, 3.0) if rarely else 0.75))

    def _listen(self, session: Session, seconds: float) -> None:
        """Wait for a notification, which any role may send, and for at least the least pause.

        Each notification doubles the pause, so that many of them cause few queries.
        """
        pause = min(self._least_pause, seconds)
        sleep(pause)
        if _is_notified(session, seconds - pause):
            doubled = max(_SHORTEST_PAUSE, 2 * self._least_pause)
            self._least_pause = min(doubled, _LONGEST_PAUSE)
        else:
            self._least_pause = 0.0

    def _may_keep(self, session: Session) -> bool:
        if self._pooled or time.monotonic() - self._free_slots_at < _FREE_SLOTS_SECONDS:
            return True
        [(has_free_slots, pid, is_standby)] = session.read(FREE_SLOTS)
        self._pooled = pid != session.handshake_pid
        if not has_free_slots and not self._pooled:
            return False
        self._free_slots_at = time.monotonic()
        self.keeps_connection = True
        # A standby cannot listen. The session outlives its promotion.
        if not (self._listening or self._pooled or is_standby):
            session.apply_session_settings()
            session.rows(f"LISTEN {channel(self.context.settings.lock_key)}")
            self._listening = True
        return True

    def close(self) -> None:
        if self.session is not None:
            self.session.close()
        self.session = None
        self._free_slots_at = 0.0
        self._listening = self._is_direct = self._pooled = False


def _is_notified(session: Session, seconds: float) -> bool:
    """Wait for a notification; return True if one came. All that have arrived count as one."""
    for part in itertools.chain([0.0], slices(seconds)):
        if list(session.raw.notifies(timeout=part, stop_after=1)):
            list(session.raw.notifies(timeout=0))
            return True
    return False
