"""Check that the sessions of a server exclude each other."""

from __future__ import annotations

import random
from dataclasses import dataclass

from django_safe_init.backends.postgresql.session import Session
from django_safe_init.exceptions import UnsafeConnection


@dataclass(frozen=True)
class ConnectionInfo:
    """The properties by which a client recognizes a pooler or a standby."""

    backend_pid: int
    handshake_pid: int
    is_standby: bool

    @property
    def behind_pooler(self) -> bool:
        """Return True behind a pooler, which invents the handshake's pid (pgbouncer#945)."""
        return self.backend_pid != self.handshake_pid


def inspect_connection(session: Session) -> ConnectionInfo:
    """Return the properties of the session's connection, in one round trip."""
    [(pid, standby)] = session.rows("SELECT pg_backend_pid(), pg_is_in_recovery()")
    return ConnectionInfo(pid, session.handshake_pid, standby)


def check_direct_connection(session: Session, *, declared: bool) -> ConnectionInfo:
    """Return the connection's properties; raise `UnsafeConnection` if it can hold no lock.

    A standby is always refused. A pooler is accepted if `declared` is True, because the setting
    `DIRECT` then promises one server session per client.
    """
    info = inspect_connection(session)
    if info.behind_pooler and not declared:
        raise UnsafeConnection(
            f"The database {session.alias!r} is reached through a connection pooler, where a "
            "session lock excludes nobody. Name settings that go straight to the server: "
            f'SAFE_INIT = {{"DIRECT": {{"{session.alias}": {{"HOST": ..., "PORT": ...}}}}}}.'
        )
    if info.is_standby:
        raise UnsafeConnection(
            f"The database {session.alias!r} is a read-only standby. Connect to the primary: "
            f'SAFE_INIT = {{"DIRECT": {{"{session.alias}": {{"HOST": ..., "PORT": ...}}}}}}.'
        )
    return info


def check_lock_excludes(first: Session, second: Session) -> None:
    """Raise `UnsafeConnection` unless a lock of one session excludes the other session.

    CockroachDB and some versions of YugabyteDB grant the lock to every session. A pooler in
    transaction mode can give one backend to two clients.
    """
    key = random.getrandbits(62)
    if not (_separate_backends(first, second) and _excludes(first, second, key)):
        raise UnsafeConnection(
            f"The database {first.alias!r} gives one lock to two sessions, so it would not "
            "keep two leaders apart. Behind a pooler in transaction mode, let "
            f'SAFE_INIT["DIRECT"]["{first.alias}"] name the server itself.'
        )


def _separate_backends(first: Session, second: Session) -> bool:
    """Return True if each session keeps its own backend during the other's transaction."""
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
