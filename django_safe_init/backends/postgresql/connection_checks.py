"""Check that the sessions of a server exclude each other."""

from __future__ import annotations

import random
from dataclasses import dataclass

import psycopg

from django_safe_init.backends.postgresql.session import Session
from django_safe_init.exceptions import LockLost, ReadOnlyServer, UnsafeConnection


@dataclass(frozen=True)
class ConnectionInfo:
    """The properties by which a client recognizes a pooler or a standby."""

    backend_pid: int
    handshake_pid: int
    is_standby: bool
    is_read_only: bool

    @property
    def behind_pooler(self) -> bool:
        """Return True behind a pooler, which invents the handshake's pid (pgbouncer#945)."""
        return self.backend_pid != self.handshake_pid


def inspect_connection(session: Session) -> ConnectionInfo:
    """Return the properties of the session's connection, in one round trip."""
    [(pid, standby, read_only)] = session.rows(
        "SELECT pg_backend_pid(), pg_is_in_recovery(),"
        " current_setting('transaction_read_only') = 'on'"
    )
    return ConnectionInfo(pid, session.handshake_pid, standby, read_only)


def check_direct_connection(session: Session, *, declared: bool) -> ConnectionInfo:
    """Return the connection's properties; raise `UnsafeConnection` if it can hold no lock.

    A pooler is accepted if `declared` is True, because the setting `DIRECT` then promises one
    server session per client. Raises `ReadOnlyServer` for a standby and a read-only server,
    which a switchover may make the primary.
    """
    info = inspect_connection(session)
    if info.behind_pooler and not declared:
        raise UnsafeConnection(
            f"The database {session.alias!r} is reached through a connection pooler, where a "
            "session lock excludes nobody. Name settings that go straight to the server: "
            f'SAFE_INIT = {{"DIRECT": {{"{session.alias}": {{"HOST": ..., "PORT": ...}}}}}}.'
        )
    check_writable(session, info)
    return info


def check_writable(session: Session, info: ConnectionInfo | None = None) -> None:
    """Raise `ReadOnlyServer` for a standby, and for a server that is set to be read-only.

    `info` was read on the session just before; None to read it now.
    """
    info = info or inspect_connection(session)
    if info.is_standby:
        raise ReadOnlyServer(
            f"The database {session.alias!r} is a read-only standby. Connect to the primary: "
            f'SAFE_INIT = {{"DIRECT": {{"{session.alias}": {{"HOST": ..., "PORT": ...}}}}}}.'
        )
    if info.is_read_only:
        raise ReadOnlyServer(
            f"The database {session.alias!r} is read-only: default_transaction_read_only is "
            "on. Connect to the primary, or set the parameter to off for the server, the "
            "database or the role."
        )


def check_lock_excludes(first: Session, second: Session) -> None:
    """Raise `UnsafeConnection` unless a lock of one session excludes the other session.

    CockroachDB and some versions of YugabyteDB grant the lock to every session. A pooler in
    transaction mode can give one backend to two clients. Raises `LockLost` if the sessions have
    reached two servers, as in the middle of a switchover.
    """
    key = random.getrandbits(62)
    if not (_separate_backends(first, second) and _excludes(first, second, key)):
        check_writable(second)
        if _server_start(first) != _server_start(second):
            raise LockLost(
                f"Two sessions of the database {first.alias!r} have reached two servers."
            )
        raise UnsafeConnection(
            f"The database {first.alias!r} gives one lock to two sessions, so it would not "
            "keep two leaders apart. Behind a pooler in transaction mode, let "
            f'SAFE_INIT["DIRECT"]["{first.alias}"] name the server itself.'
        )


def _separate_backends(first: Session, second: Session) -> bool:
    """Return True if each session keeps its own backend during the other's transaction."""
    mine = inspect_connection(first).backend_pid
    for _ in range(5):
        second.rows("BEGIN")
        theirs = inspect_connection(second).backend_pid
        is_kept = inspect_connection(first).backend_pid == mine
        second.rows("ROLLBACK")
        if theirs == mine or not is_kept:
            return False
    return True


def _excludes(first: Session, second: Session, key: int) -> bool:
    attempt = "SELECT pg_try_advisory_lock(%(key)s)"
    [(mine,)] = first.rows(attempt, {"key": key})
    [(theirs,)] = second.rows(attempt, {"key": key})
    [(released,)] = first.rows("SELECT pg_advisory_unlock(%(key)s)", {"key": key})
    return bool(mine) and not theirs and bool(released)


def _server_start(session: Session) -> object:
    """Return the time at which the server started, which tells two servers apart."""
    try:
        return session.rows("SELECT pg_postmaster_start_time()")
    except psycopg.ProgrammingError:  # not a function of CockroachDB
        return None
