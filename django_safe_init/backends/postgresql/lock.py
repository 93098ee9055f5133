"""Hold the leader lock on PostgreSQL: an advisory lock of a session."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import psycopg

from django_safe_init.backends.postgresql.errors import session_error
from django_safe_init.backends.postgresql.holder import cannot_terminate, terminate
from django_safe_init.backends.postgresql.lock_holders import (
    Holder,
    key_holders,
    name_all,
)
from django_safe_init.backends.postgresql.lock_keys import (
    HELD,
    channel,
    leader_key,
    work_key,
)
from django_safe_init.backends.postgresql.session import Session
from django_safe_init.core.cancellation import sleep
from django_safe_init.core.deadline import Deadline
from django_safe_init.core.records import leader_name, session_name
from django_safe_init.core.text import first_of, with_commands
from django_safe_init.exceptions import LockLost, WaitTimeout

#: Between two queries for the sessions that hold the work key, in seconds.
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.02, 0.5


@dataclass(frozen=True)
class LockSnapshot:
    """The holders of the leader key and the work key at one moment."""

    #: The session that took the snapshot holds the leader lock.
    leads: bool
    #: The process ids of the sessions that hold the work key.
    work_key_pids: frozenset[int]


def snapshot_sql(leader_key: str, work_key: str) -> str:
    """Return the SELECT list of a `LockSnapshot`: the two fields."""
    return f"""
        coalesce(bool_or(pid = pg_backend_pid() AND key = {leader_key}), false),
        coalesce(array_agg(pid) FILTER (WHERE key = {work_key}), '{{}}') FROM {HELD}
    """


def snapshot_params(lock_key: str | None) -> dict[str, int]:
    """Return the parameters of a snapshot: both keys."""
    return {"leader_key": leader_key(lock_key), "work_key": work_key(lock_key)}


#: The fields of a `LockSnapshot`, as a process of the leader sees them on a session of its own.
_READ_LOCK_OF = f"""
    SELECT coalesce(bool_or(pid = %(leader)s AND key = %(leader_key)s), false),
        coalesce(array_agg(pid) FILTER (WHERE key = %(work_key)s), '{{}}') FROM {HELD}
"""
_ACQUIRE = """
    SELECT CASE WHEN pg_try_advisory_lock(%(key)s)
      THEN set_config('application_name', %(name)s, false) END
"""
_READ_LOCK = "SELECT " + snapshot_sql("%(leader_key)s", "%(work_key)s")


class AdvisoryLock:
    """The leader lock, on a dedicated session.

    Processes poll the lock and never wait for it. A blocked `pg_advisory_lock()` is a running
    statement with a snapshot, and a leader's `CREATE INDEX CONCURRENTLY` would wait for it
    forever.
    """

    def __init__(self, session: Session, lock_key: str | None = None) -> None:
        self.session = session
        self.lock_key = lock_key
        self.key = leader_key(lock_key)
        self.work_key = work_key(lock_key)
        self.channel = channel(lock_key)

    @cached_property
    def leader_pid(self) -> int:
        """The server process of the session that holds, or may take, the lock."""
        [(pid,)] = self.session.rows("SELECT pg_backend_pid()")
        return int(pid)

    def try_acquire(self) -> bool:
        """Acquire the lock if it is free, and name the leader for other sessions."""
        name = session_name(leader_name())
        [(named,)] = self.session.rows(_ACQUIRE, {"key": self.key, "name": name})
        return named is not None

    def snapshot(self) -> LockSnapshot:
        """Return the current holders of both keys. Raises `LockLost` if the session is gone."""
        try:
            [(leads, pids)] = self.session.rows(
                _READ_LOCK, snapshot_params(self.lock_key)
            )
        except psycopg.Error as exc:
            raise session_error(exc) from exc
        return LockSnapshot(leads, frozenset(pids))

    def verify(self, snapshot: LockSnapshot | None = None) -> LockSnapshot:
        """Raise `LockLost` unless this session holds the lock in the snapshot, or now."""
        snapshot = snapshot or self.snapshot()
        if not snapshot.leads:
            raise LockLost("The leader session no longer holds the leader lock.")
        return snapshot

    def release(self) -> None:
        """Release the lock and wake all followers. Raises `LockLost` if it was not held."""
        try:
            [(released, _)] = self.session.rows(
                "SELECT pg_advisory_unlock(%(key)s), pg_notify(%(channel)s, '')",
                {"key": self.key, "channel": self.channel},
            )
        except psycopg.Error as exc:
            raise session_error(exc) from exc
        if not released:
            raise LockLost(
                "The leader lock was not held any more when it was to be released."
            )

    def terminate_predecessors(
        self, report: Callable[[str], None], deadline: Deadline
    ) -> None:
        """Terminate every session that holds the work key, and wait until they are gone.

        Statements that a dead leader left running on the server then cannot overlap with this
        run. If a session of another role cannot be terminated, this process waits for its end
        and names it to `report`. Raises `WaitTimeout` at the deadline.
        """
        named: set[tuple[int, str | None]] = set()
        pause = _SHORTEST_PAUSE
        while left := key_holders(self.session.rows, self.work_key):
            for each in left:
                is_told = each.gid is None and terminate(self.session, each.pid)
                if not is_told and (each.pid, each.gid) not in named:
                    named.add((each.pid, each.gid))
                    report(_predecessor_message(each))
            if deadline.passed():
                shown, _ = first_of(left)
                raise WaitTimeout(
                    with_commands(
                        "Work that an earlier leader left running did not end in time: "
                        f"{name_all(left)}. To end that, as an administrator:",
                        [each.remedy for each in shown],
                    )
                )
            sleep(deadline.clip(pause))
            pause = min(pause * 1.5, _LONGEST_PAUSE)


class BorrowedLock(AdvisoryLock):
    """The lock of a leader, as a process that the leader has forked sees it."""

    def __init__(self, session: Session, lock_key: str | None, leader_pid: int) -> None:
        super().__init__(session, lock_key)
        self.leader_pid = leader_pid

    def snapshot(self) -> LockSnapshot:
        params = {**snapshot_params(self.lock_key), "leader": self.leader_pid}
        try:
            [(leads, pids)] = self.session.rows(_READ_LOCK_OF, params)
        except psycopg.Error as exc:
            raise session_error(exc) from exc
        return LockSnapshot(leads, frozenset(pids))


def _predecessor_message(holder: Holder) -> str:
    if holder.gid is not None:
        return f"Work of an earlier leader is kept by {holder.with_remedy}"
    reason = cannot_terminate(holder.pid, holder.role, holder.detail)
    return f"Work of an earlier leader goes on. {reason}"
