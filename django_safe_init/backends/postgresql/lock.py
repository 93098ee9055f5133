"""The leader lock and the work key on PostgreSQL, and the proof that they exclude."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass

import psycopg

from django_safe_init.backends.postgresql.ending import refusal, terminate
from django_safe_init.backends.postgresql.lock_keys import (
    HELD,
    HOLDERS,
    channel,
    leader_key,
    work_key,
)
from django_safe_init.backends.postgresql.session import Session, session_error
from django_safe_init.core.cancellation import sleep
from django_safe_init.core.deadline import Deadline
from django_safe_init.exceptions import LockLost, UnsafeConnection, WaitTimeout

logger = logging.getLogger("django_safe_init")


@dataclass(frozen=True)
class LockSnapshot:
    """What a leader session has seen of the two keys, at one moment."""

    #: Whether the session itself holds the leader lock.
    leads: bool
    #: The backends that hold the work key.
    marked: frozenset[int]


def snapshot_sql(leader_key: str, work_key: str) -> str:
    """Return the SELECT list of a `LockSnapshot`: `leads`, `marked`."""
    return f"""
        coalesce(bool_or(pid = pg_backend_pid() AND key = {leader_key}), false),
        coalesce(array_agg(pid) FILTER (WHERE key = {work_key}), '{{}}') FROM {HELD}
    """


def snapshot_params(lock_key: str | None) -> dict[str, int]:
    """The two keys, as parameters."""
    return {"leader_key": leader_key(lock_key), "work_key": work_key(lock_key)}


_PROVE = "SELECT " + snapshot_sql("%(leader_key)s", "%(work_key)s")


class AdvisoryLock:
    """The leader lock, on a session of its own.

    It is polled, never waited for: a blocked `pg_advisory_lock()` is a running statement with
    a snapshot, and `CREATE INDEX CONCURRENTLY` of the leader would wait for it for ever.
    """

    def __init__(self, session: Session, lock_key: str | None = None) -> None:
        self.session = session
        self.lock_key = lock_key
        self.key = leader_key(lock_key)
        self.work_key = work_key(lock_key)
        self.channel = channel(lock_key)

    def try_acquire(self) -> bool:
        """Take the lock if it is free; never waits."""
        [(acquired,)] = self.session.rows(
            "SELECT pg_try_advisory_lock(%(key)s)", {"key": self.key}
        )
        return bool(acquired)

    def prove(self) -> LockSnapshot:
        """Look who holds the two keys. Raises `LockLost` if the session is gone."""
        try:
            [(leads, marked)] = self.session.rows(
                _PROVE, snapshot_params(self.lock_key)
            )
        except psycopg.Error as exc:
            raise session_error(exc) from exc
        return LockSnapshot(leads, frozenset(marked))

    def verify(self, proof: LockSnapshot | None = None) -> LockSnapshot:
        """Raise `LockLost` unless this session holds the lock, by a proof or at this moment."""
        proof = proof or self.prove()
        if not proof.leads:
            raise LockLost("The leader session no longer holds the leader lock.")
        return proof

    def release(self) -> None:
        """Free the lock and wake all who wait. Raises `LockLost` if it was not held."""
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

    def end_predecessors(
        self, report: Callable[[str], None], deadline: Deadline
    ) -> None:
        """End every backend that holds the work key, and wait until they are gone.

        What a dead leader left running inside the server cannot overlap with this one. A
        backend of another role cannot be ended: it is waited for, and named.
        """
        named: set[int] = set()
        while left := self._predecessors():
            for pid, role in left:
                if not terminate(self.session, pid) and pid not in named:
                    named.add(pid)
                    report(_refusal(pid, role))
            if deadline.passed():
                raise WaitTimeout(
                    "Work that an earlier leader left running did not end in time: "
                    + " ".join(_refusal(pid, role) for pid, role in left)
                )
            sleep(0.02)

    def _predecessors(self) -> list[tuple[int, str]]:
        return self.session.rows(
            f"SELECT pid, usename FROM pg_stat_activity WHERE pid IN ({HOLDERS})"
            " AND pid <> pg_backend_pid()",
            {"key": self.work_key},
        )


def _refusal(pid: int, role: str) -> str:
    return f"Work of an earlier leader goes on. {refusal(pid, role)}"


@dataclass(frozen=True)
class ConnectionInfo:
    """What a session's server looks like from the client."""

    backend_pid: int
    handshake_pid: int
    is_standby: bool

    @property
    def behind_pooler(self) -> bool:
        """A pooler invents the process id of the handshake (pgbouncer#945)."""
        return self.backend_pid != self.handshake_pid


def inspect_connection(session: Session) -> ConnectionInfo:
    """The session's surroundings, in one round trip."""
    [(pid, standby)] = session.rows("SELECT pg_backend_pid(), pg_is_in_recovery()")
    return ConnectionInfo(pid, session.handshake_pid, standby)


def check_direct_connection(session: Session, *, declared: bool) -> ConnectionInfo:
    """Raise `UnsafeConnection` behind a pooler or on a standby.

    `declared` says that `DIRECT` promises one server session per client.
    """
    found = inspect_connection(session)
    if found.behind_pooler and not declared:
        raise UnsafeConnection(
            f"The database {session.alias!r} is reached through a connection pooler, where a "
            "session lock excludes nobody. Name settings that go straight to the server: "
            f'SAFE_INIT = {{"DIRECT": {{"{session.alias}": {{"HOST": ..., "PORT": ...}}}}}}.'
        )
    if found.is_standby:
        raise UnsafeConnection(
            f"The database {session.alias!r} is a read-only standby. Connect to the primary: "
            f'SAFE_INIT = {{"DIRECT": {{"{session.alias}": {{"HOST": ..., "PORT": ...}}}}}}.'
        )
    return found


def check_lock_excludes(first: Session, second: Session) -> None:
    """Raise `UnsafeConnection` unless a lock of one session really excludes the other.

    CockroachDB and some versions of YugabyteDB answer `true` to everybody, and a pooler in
    transaction mode gives one backend to two clients.
    """
    key = random.getrandbits(62)
    if not (_separate_backends(first, second) and _excludes(first, second, key)):
        raise UnsafeConnection(
            f"The database {first.alias!r} gives one lock to two sessions, so it would not "
            "keep two leaders apart. Behind a pooler in transaction mode, let "
            f'SAFE_INIT["DIRECT"]["{first.alias}"] name the server itself.'
        )


def _separate_backends(first: Session, second: Session) -> bool:
    """Whether each of the two keeps a backend of its own while the other has a transaction."""
    mine = inspect_connection(first).backend_pid
    for _ in range(5):
        with second.raw.transaction():
            theirs = inspect_connection(second).backend_pid
            if theirs == mine or inspect_connection(first).backend_pid != mine:
                return False
    return True


def _excludes(first: Session, second: Session, key: int) -> bool:
    attempt = "SELECT pg_try_advisory_lock(%(key)s)"
    [(mine,)] = first.rows(attempt, {"key": key})
    [(theirs,)] = second.rows(attempt, {"key": key})
    [(released,)] = first.rows("SELECT pg_advisory_unlock(%(key)s)", {"key": key})
    return bool(mine) and not theirs and bool(released)
