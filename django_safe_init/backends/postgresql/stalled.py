"""End a leader that holds the lock and has no heartbeat."""

from __future__ import annotations

import time
from collections.abc import Callable

from django_safe_init.backends.postgresql.activity import LeaderSession, leader_backends
from django_safe_init.backends.postgresql.holder import terminate_sessions
from django_safe_init.backends.postgresql.session import Session
from django_safe_init.conf import HEARTBEAT_SECONDS
from django_safe_init.core.records import LeaderSnapshot, RunRow

#: How long a leader must be observed without a heartbeat: time to continue after a pause that
#: stopped both the leader and the server.
_SECONDS_OF_GRACE = 2 * HEARTBEAT_SECONDS
_SECONDS_TO_END = 5.0


class StalledLeader:
    """Ends a leader that has had no heartbeat for `after` seconds.

    A heartbeat is a statement on the leader session, and that session's state changes also while
    a migration locks the status tables, when the run's row can be neither written nor read. The
    work itself is not considered: a leader in a long statement has a heartbeat.

    Ending a leader that is alive costs it a restart. It is safe, because the leader cannot write
    any more. `open_session` returns the session on which the leader's are terminated.
    """

    def __init__(
        self,
        after: float,
        lock_key: str | None,
        open_session: Callable[[], Session],
        report: Callable[[str], None],
    ) -> None:
        self._after = after
        self._lock_key = lock_key
        self._open_session = open_session
        self._report = report
        self._suspect: object = None
        self._suspected = 0.0
        self._refused: object = None

    def end(self, session: Session, snapshot: LeaderSnapshot) -> bool:
        """Return True if a stalled leader was ended, so the lock is free.

        `snapshot` is the newest one, without a run if the tables could not be read.
        """
        run = _run_of(snapshot.leader_pid, snapshot)
        if run is not None and not self._is_suspect(run.silence_seconds):
            self._suspect = None
            return False
        backends = leader_backends(session, self._lock_key)
        if not backends or not self._is_stalled(backends[0], snapshot):
            return False
        return self._end(backends, snapshot)

    def _is_suspect(self, silence: float) -> bool:
        return silence > self._after - _SECONDS_OF_GRACE

    def _is_stalled(self, leader: LeaderSession, snapshot: LeaderSnapshot) -> bool:
        """Return True if the silence, and the time it was observed, are long enough."""
        silence = _silence(leader, snapshot)
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

    def _end(self, backends: list[LeaderSession], snapshot: LeaderSnapshot) -> bool:
        leader = backends[0]
        run = _run_of(leader.pid, snapshot)
        line = (
            f"the leader ({run.leader if run else f'backend {leader.pid}'}) has given no sign "
            f"of life for {_silence(leader, snapshot):.0f} s"
        )
        session = self._open_session()
        reason = terminate_sessions(session, backends, _SECONDS_TO_END)
        if reason is not None:
            self._refused = leader.identity
            self._report(f"{line}. {reason}")
            return False
        self._report(f"{line}: its sessions were ended.")
        return True


def _run_of(pid: int | None, snapshot: LeaderSnapshot) -> RunRow | None:
    """Return the open run of that leader, if it was read."""
    run = snapshot.latest
    return run if run is not None and run.open and run.backend_pid == pid else None


def _silence(leader: LeaderSession, snapshot: LeaderSnapshot) -> float:
    """Return the seconds since the leader's last heartbeat; 0 if that is unknown."""
    if not leader.leads or not leader.application.startswith("safe_init"):
        return 0.0  # a session that only blocks leaders and has no heartbeat
    if leader.active:
        return 0.0
    if leader.state_seconds is not None:
        return leader.state_seconds
    run = _run_of(leader.pid, snapshot)  # this role may not see the leader's sessions
    return run.silence_seconds if run is not None else 0.0
