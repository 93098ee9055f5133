"""End a leader that holds the lock and has no heartbeat."""

from __future__ import annotations

import time
from collections.abc import Callable

from django_safe_init.backends.postgresql.activity import LeaderSession, leader_sessions
from django_safe_init.backends.postgresql.holder import terminate_sessions
from django_safe_init.backends.postgresql.session import Session
from django_safe_init.conf import HEARTBEAT_SECONDS
from django_safe_init.core.records import LeaderSnapshot, RunRow

#: The seconds for which a follower observes a leader without a heartbeat before it ends the
#: leader. A pause may have stopped both the leader and the server.
_SECONDS_OF_GRACE = 2 * HEARTBEAT_SECONDS
_SECONDS_TO_END = 5.0


class StalledLeader:
    """A leader that a follower ends after `after` seconds without a heartbeat.

    A heartbeat is a statement on the leader session. It changes that session's state even while a
    migration locks the status tables and the run's row can be neither written nor read. The
    migrating session does not count: a leader in a long statement has a heartbeat.

    Ending a leader that is alive costs it a restart. That is safe, because the leader can no
    longer write. `open_session` returns the session that terminates the leader's sessions.
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
        """End the leader if it is stalled; return True if its lock is now free.

        `snapshot` is the newest snapshot, without a run if the tables could not be read.
        """
        run = _run_of(snapshot.leader_pid, snapshot)
        if run is not None and not self._is_suspect(run.silence_seconds):
            self._suspect = None
            return False
        sessions = leader_sessions(session, self._lock_key)
        if not sessions or not self._is_stalled(sessions[0], snapshot):
            return False
        return self._end(sessions, snapshot)

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
        observed = time.monotonic() - self._suspected
        return (
            silence > self._after
            and observed >= _SECONDS_OF_GRACE
            and self._refused != leader.identity
        )

    def _end(self, sessions: list[LeaderSession], snapshot: LeaderSnapshot) -> bool:
        leader = sessions[0]
        run = _run_of(leader.pid, snapshot)
        title = f"the {run.leader_title}" if run else f"a leader (backend {leader.pid})"
        silence = f"{_silence(leader, snapshot):.0f} s"
        line = f"{title} has given no sign of life for {silence}"
        reason = terminate_sessions(self._open_session(), sessions, _SECONDS_TO_END)
        if reason is not None:
            self._refused = leader.identity
            self._report(f"{line}. {reason}")
            return False
        self._report(f"{line}: its sessions were ended.")
        return True


def _run_of(pid: int | None, snapshot: LeaderSnapshot) -> RunRow | None:
    """Return the open run of the leader `pid`, or None if the snapshot has none."""
    run = snapshot.latest
    return run if run is not None and run.open and run.backend_pid == pid else None


def _silence(leader: LeaderSession, snapshot: LeaderSnapshot) -> float:
    """Return the seconds since the leader's last heartbeat; 0 if that is unknown."""
    if not leader.leads or not leader.application.startswith("safe_init"):
        return 0.0  # another program's session, which has no heartbeat
    if leader.active:
        return 0.0
    if leader.state_seconds is not None:
        return leader.state_seconds
    run = _run_of(leader.pid, snapshot)  # if this role may not see the state
    return run.silence_seconds if run is not None else 0.0
