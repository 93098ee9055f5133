"""A leader that has the lock and gives no sign of life: stopped, or cut off and not noticed."""

from __future__ import annotations

import time
from collections.abc import Callable

from django_safe_init.backends.postgresql.activity import LeaderSession, leader_backends
from django_safe_init.backends.postgresql.ending import terminate_sessions
from django_safe_init.backends.postgresql.observer import PostgresObserver
from django_safe_init.backends.postgresql.session import Session
from django_safe_init.conf import HEARTBEAT_SECONDS
from django_safe_init.core.records import LeaderSnapshot, RunRow

#: For how long a leader must be watched in silence: time for it, or for the server, to go on
#: after a pause that both of them had.
_SECONDS_OF_GRACE = 2 * HEARTBEAT_SECONDS
_SECONDS_TO_END = 5.0


class StalledLeader:
    """Ends a leader that has given no sign of life for `STALLED_AFTER`, if that is set.

    A leader's heartbeat is a statement on its leader session. That session tells more than the
    time in the run's row: it moves also while a migration has locked our tables, when the row
    cannot be written, or read. Nothing is asked of the work itself: a leader inside a long
    statement has its heartbeat, and the statement of one that is stopped is nobody's any more.

    Ending a leader that lives after all costs it a new start and is safe otherwise: it can
    write nothing more.
    """

    def __init__(self, watch: PostgresObserver, report: Callable[[str], None]) -> None:
        self.watch = watch
        self.report = report
        assert watch.settings.stalled_after is not None  # or nobody asks
        self._after = watch.settings.stalled_after
        self._lock_key = watch.settings.lock_key
        self._suspect: object = None
        self._suspected = 0.0
        self._refused: object = None

    def end(self, session: Session, glance: LeaderSnapshot) -> bool:
        """Whether there was one and it has been ended just now: the lock is free.

        `glance` is what was read just now, without a run if the tables could not be read.
        """
        run = _run_of(glance.leader_pid, glance)
        if run is not None and not self._is_suspect(run.silence_seconds):
            self._suspect = None
            return False
        backends = leader_backends(session, self._lock_key)
        if not backends or not self._is_stalled(backends[0], glance):
            return False
        return self._end(backends, glance)

    def _is_suspect(self, silence: float) -> bool:
        return silence > self._after - _SECONDS_OF_GRACE

    def _is_stalled(self, leader: LeaderSession, glance: LeaderSnapshot) -> bool:
        """Whether the silence is long enough, and was watched for long enough."""
        silence = _silence(leader, glance)
        if not self._is_suspect(silence):
            self._suspect = None
            return False
        if self._suspect != leader.identity:
            self._suspect, self._suspected = leader.identity, time.monotonic()
        watched = time.monotonic() - self._suspected
        return (
            silence > self._after
            and watched >= _SECONDS_OF_GRACE
            and self._refused != leader.identity
        )

    def _end(self, backends: list[LeaderSession], glance: LeaderSnapshot) -> bool:
        leader = backends[0]
        run = _run_of(leader.pid, glance)
        line = (
            f"the leader ({run.leader if run else f'backend {leader.pid}'}) has given no sign "
            f"of life for {_silence(leader, glance):.0f} s"
        )
        session = self.watch.direct_reader().session
        reason = terminate_sessions(session, backends, _SECONDS_TO_END)
        if reason is not None:
            self._refused = leader.identity
            self.report(f"{line}. {reason}")
            return False
        self.report(f"{line}: its sessions were ended.")
        return True


def _run_of(pid: int | None, glance: LeaderSnapshot) -> RunRow | None:
    """The open run of that leader, if it was read."""
    run = glance.latest
    return run if run is not None and run.open and run.backend_pid == pid else None


def _silence(leader: LeaderSession, glance: LeaderSnapshot) -> float:
    """For how many seconds a leader has given no sign of life; 0 where nobody can tell."""
    if not leader.leads or not leader.application.startswith("safe_init"):
        return 0.0  # somebody who keeps all leaders away, and has no heartbeat
    if leader.active:
        return 0.0
    if leader.state_seconds is not None:
        return leader.state_seconds
    run = _run_of(leader.pid, glance)  # of a role whose sessions this one may not see
    return run.silence_seconds if run is not None else 0.0
