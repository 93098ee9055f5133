"""Django's connections during a run: direct, unpooled, marked with the work key, and led."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Mapping
from typing import Any

import psycopg
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from django_safe_init.backends.postgresql.lock import AdvisoryLock, LockSnapshot
from django_safe_init.backends.postgresql.lock_keys import holders_sql
from django_safe_init.backends.postgresql.session import (
    apply_session_settings,
    cancel_statement,
    create_direct_wrapper,
    retry_when_busy,
)
from django_safe_init.conf import get_settings
from django_safe_init.core.cancellation import token_of_other_thread
from django_safe_init.core.databases import existing_wrapper
from django_safe_init.core.threads import InitializationThread
from django_safe_init.exceptions import LockLost, UnsafeConnection

_registry: list[FencedConnections] = []
_registry_lock = threading.Lock()


class FencedConnections:
    """While open, each connection that the run makes to the alias can be fenced off.

    Every such connection takes the work key *before* it looks whether this process still
    leads. A successor takes the leader lock *before* it ends the holders of the work key. So
    a connection that a successor does not see cannot believe that its process leads.

    The run's threads are the one that entered and those started later; what other threads of
    the process do with the alias is none of its business, nor what other initializations do.
    """

    def __init__(
        self, alias: str, lock: AdvisoryLock, direct: Mapping[str, Any] | None
    ) -> None:
        self.alias = alias
        self.lock = lock
        self.direct = direct
        self._process = os.getpid()
        self._interruption = token_of_other_thread()
        [(self._leader_pid,)] = lock.session.rows("SELECT pg_backend_pid()")
        #: Whether a connection of the leading thread was gone before the run ended.
        self.broken = False
        self._thread = threading.current_thread()
        self._raw: psycopg.Connection[Any] | None = None
        self._raw_pid = 0
        self._strangers = weakref.WeakSet(
            thread
            for thread in threading.enumerate()
            if thread is not threading.current_thread()
        )

    def __enter__(self) -> BaseDatabaseWrapper:
        self._previous = existing_wrapper(self.alias)
        with _registry_lock:
            _registry.append(self)
            # The only way to the connections of threads that a migration starts: those are
            # made by the handler, from settings that may name a pool or a pooler.
            connections.create_connection = _create_connection  # type: ignore[method-assign]
        connection_created.connect(self._arm)
        self._wrapper = self.new_wrapper()
        connections[self.alias] = self._wrapper
        return self._wrapper

    def __exit__(self, *exc_info: object) -> None:
        # Now, because from here on we close it ourselves.
        self.broken = self._is_gone()
        connection_created.disconnect(self._arm)
        if self._interruption is not None:
            self._interruption.unregister(self.alias)
        with _registry_lock:
            _registry.remove(self)
            if not _registry:
                del connections.create_connection
        self._wrapper.close()
        if self._previous is None:
            del connections[self.alias]
        else:
            connections[self.alias] = self._previous

    def new_wrapper(self) -> BaseDatabaseWrapper:
        """An unpooled wrapper of the alias, by the direct settings."""
        wrapper = create_direct_wrapper(self.alias, self.direct)
        if self._interruption is not None:
            self._interruption.register(wrapper, cancel_statement)
        return retry_when_busy(wrapper, get_settings().wait_timeout)

    @property
    def backend_pid(self) -> int:
        """The backend of the leading thread's connection; 0 before there is one."""
        return self._raw_pid

    def _is_gone(self) -> bool:
        return self.broken or (self._raw is not None and self._raw.closed)

    def verify(self, proof: LockSnapshot | None = None) -> None:
        """Raise `LockLost` unless this process leads; mark the connection again if need be.

        A migration may have run `DISCARD ALL` or `pg_advisory_unlock_all()`. `proof` is what
        the leader session has seen since the last migration; None to look now.
        """
        proof = self.lock.verify(proof)
        raw = self._wrapper.connection
        if raw is not None and self._raw_pid not in proof.marked:
            self._mark(raw)

    def _mark(self, raw: psycopg.Connection[Any]) -> None:
        """First the mark, then the look whether this process still leads: see above."""
        apply_session_settings(raw)
        cursor = psycopg.ClientCursor(raw).execute(
            f"SELECT pg_try_advisory_lock_shared(%(key)s), ARRAY({holders_sql('key')})",
            {"key": self.lock.work_key},
        )
        [(marked, holders)] = cursor.fetchall()
        if not marked:
            raise UnsafeConnection(
                f"Another session (backend {', '.join(map(str, holders))}) holds the work key "
                f"{self.lock.work_key} exclusively, so this run could not be fenced off. "
                "End that session, or set another LOCK_KEY."
            )
        self._verify_from(raw)

    def covers(self, thread: threading.Thread) -> bool:
        """Whether what this thread does belongs to the run."""
        if thread is self._thread:
            return True
        return (
            not isinstance(thread, InitializationThread)
            and thread not in self._strangers
        )

    def _arm(self, connection: BaseDatabaseWrapper, **kwargs: Any) -> None:
        thread = threading.current_thread()
        if connection.alias != self.alias or not self.covers(thread):
            return
        raw = connection.connection
        if thread is self._thread:
            # Django reconnects by itself, when it could not roll back.
            self.broken = self._is_gone()
            self._raw = raw
        try:
            pid = self._own_server_session(raw)
            self._mark(raw)
            if not raw.autocommit:
                raw.commit()
            if thread is self._thread:
                self._raw_pid = pid
        except BaseException:
            # Django leaves a connection whose receiver raised open and usable.
            raw.close()
            connection.connection = None
            raise

    def _own_server_session(self, raw: psycopg.Connection[Any]) -> int:
        [(pid,)] = (
            psycopg.ClientCursor(raw).execute("SELECT pg_backend_pid()").fetchall()
        )
        if pid != raw.info.backend_pid and self.direct is None:
            raise UnsafeConnection(
                f"A connection to {self.alias!r} goes through a connection pooler. "
                'Name the server itself in SAFE_INIT["DIRECT"].'
            )
        return int(pid)

    def _verify_from(self, raw: psycopg.Connection[Any]) -> None:
        if os.getpid() == self._process:
            self.lock.verify()
            return
        # A forked child is cut off from the leader session; it can still see who leads.
        cursor = psycopg.ClientCursor(raw).execute(
            f"SELECT 1 WHERE %(leader)s IN ({holders_sql('key')})",
            {"leader": self._leader_pid, "key": self.lock.key},
        )
        if cursor.fetchone() is None:
            raise LockLost("The process that started this one no longer leads.")


def _create_connection(alias: str) -> BaseDatabaseWrapper:
    thread = threading.current_thread()
    for armed in list(_registry):
        if armed.alias == alias and armed.covers(thread):
            return armed.new_wrapper()
    wrapper: BaseDatabaseWrapper = type(connections).create_connection(
        connections, alias
    )
    return wrapper
