"""Fence Django's connections during a run."""

from __future__ import annotations

import os
import random
import threading
import weakref
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from typing import Any, NoReturn

import psycopg
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from django_safe_init.backends.base.lock import LockWaitTimeout
from django_safe_init.backends.postgresql.connect import (
    create_direct_wrapper,
    retry_when_busy,
)
from django_safe_init.backends.postgresql.connection_limits import (
    check_limits,
    is_limit_reached,
)
from django_safe_init.backends.postgresql.errors import session_error
from django_safe_init.backends.postgresql.lock import AdvisoryLock, LockSnapshot
from django_safe_init.backends.postgresql.lock_holders import (
    KEY_HOLDERS,
    Holder,
    name_all,
)
from django_safe_init.backends.postgresql.lock_keys import holders_sql
from django_safe_init.backends.postgresql.project_connection import (
    is_private,
    pinned_rows,
)
from django_safe_init.backends.postgresql.session import (
    PATROL_SETTINGS,
    apply_session_settings,
    cancel_statement,
)
from django_safe_init.conf import get_settings
from django_safe_init.core.cancellation import sleep, token_of_other_thread
from django_safe_init.core.databases import existing_wrapper
from django_safe_init.core.deadline import Deadline
from django_safe_init.core.text import first_of, with_commands
from django_safe_init.core.threads import InitializationThread
from django_safe_init.exceptions import LockLost, UnsafeConnection

#: Takes the work key, and reads from this server's own locks if the leader holds its lock.
_TAKE_WORK_KEY = f"""
    SELECT pg_try_advisory_lock_shared(%(work_key)s), ARRAY({holders_sql("work_key")}),
           %(leader)s IN ({holders_sql("leader_key")})
"""

_registry: list[FencedConnections] = []
_registry_lock = threading.Lock()


class FencedConnections:
    """Django's connections to the alias during a run, which a successor can terminate.

    They are direct and unpooled. Each connection takes the work key *before* it checks that this
    process still leads. A successor takes the leader lock *before* it terminates the holders of
    the work key. So a connection that a successor does not see cannot conclude that its process
    leads.

    The run's threads are the thread that entered and the threads started later. Other threads
    and other initializations of the process keep their own connections.
    """

    def __init__(
        self,
        alias: str,
        lock: AdvisoryLock,
        direct: Mapping[str, Any] | None,
        deadline: Deadline | None = None,
    ) -> None:
        self.alias = alias
        self.lock = lock
        self.direct = direct
        self.deadline = deadline or Deadline(None)
        self._process = os.getpid()
        self._token = token_of_other_thread()
        self._leader_pid = lock.leader_pid
        #: A connection of the leading thread was lost before the run ended.
        self.lost = False
        self._thread = threading.current_thread()
        self._raw: psycopg.Connection[Any] | None = None
        self._raw_pid = 0
        #: The connections of the leading thread.
        self._own: weakref.WeakSet[psycopg.Connection[Any]] = weakref.WeakSet()
        self._opened: weakref.WeakSet[psycopg.Connection[Any]] = weakref.WeakSet()
        self._foreign_threads = weakref.WeakSet(
            thread
            for thread in threading.enumerate()
            if thread is not threading.current_thread()
        )

    def __enter__(self) -> BaseDatabaseWrapper:
        with ExitStack() as undo:
            undo.callback(self._restore, existing_wrapper(self.alias))
            undo.callback(self._unregister)
            with _registry_lock:
                _registry.append(self)
                # Only the handler makes the connections of threads that a migration starts, and
                # its settings may name a pool or a pooler.
                connections.create_connection = _create_connection  # type: ignore[method-assign]  # no public seam
            undo.callback(connection_created.disconnect, self._fence)
            connection_created.connect(self._fence)
            self._wrapper = self.new_wrapper()
            undo.callback(self._wrapper.close)
            connections[self.alias] = self._wrapper
            self._undo = undo.pop_all()
        return self._wrapper

    def __exit__(self, *exc_info: object) -> None:
        # Checked before the connection is closed on purpose.
        self.lost = self._is_gone()
        self._raw = None
        try:
            self._undo.close()
        finally:
            for raw in list(self._own):
                raw.close()  # a backend with a pool keeps it, with its work key

    def _unregister(self) -> None:
        if self._token is not None:
            self._token.unregister(self.alias)
        with _registry_lock:
            _registry[:] = [each for each in _registry if each is not self]
            if not _registry:
                vars(connections).pop("create_connection", None)

    def _restore(self, previous: BaseDatabaseWrapper | None) -> None:
        if previous is not None:
            connections[self.alias] = previous
            return
        with suppress(AttributeError):  # the run got no wrapper
            del connections[self.alias]

    def new_wrapper(self) -> BaseDatabaseWrapper:
        """Return an unpooled wrapper of the alias with the settings of `DIRECT`."""
        wrapper = create_direct_wrapper(self.alias, self.direct)
        if self._token is not None:
            self._token.register(wrapper, cancel_statement)
        return retry_when_busy(wrapper, self._patience, self._is_full, self._note_loss)

    def _note_loss(self) -> None:
        """Note that the run got no connection, which is not the migration's fault."""
        self.lost = True

    def _is_full(self) -> bool:
        """Return True if no connection is free; raise if this run itself has the last ones."""
        if os.getpid() != self._process:
            return False
        own = sum(not raw.closed for raw in list(self._opened))
        try:
            # With the leader session, and the connection that is wanted.
            check_limits(self.lock.session, own + 2)
            return is_limit_reached(self.lock.session)
        except psycopg.Error as exc:
            raise session_error(exc) from exc

    def _patience(self) -> float:
        """Return the seconds for which a connection may wait.

        The deadline does not limit a migration that runs, and connects again.
        """
        seconds = get_settings().wait_timeout
        return seconds if self._raw_pid else self.deadline.clip(seconds)

    @property
    def wrapper(self) -> BaseDatabaseWrapper:
        """Django's wrapper of the leading thread, inside the context."""
        return self._wrapper

    def reconnect(self) -> None:
        """Close the connection of the leading thread; its next statement opens another one."""
        self._raw = None  # closed on purpose, so not lost
        self.lost = False
        # Inside an atomic block, Django would keep the closed connection until the block ends.
        self._wrapper.in_atomic_block = self._wrapper.closed_in_transaction = False
        self._wrapper.close()

    @property
    def backend_pid(self) -> int:
        """The server process of the leading thread's connection; 0 before it connects."""
        return self._raw_pid

    def _is_gone(self) -> bool:
        return self.lost or (self._raw is not None and self._raw.closed)

    def verify(self, snapshot: LockSnapshot | None = None) -> None:
        """Raise `LockLost` unless this process leads; take the work key again if it was freed.

        A migration may have run `DISCARD ALL` or `pg_advisory_unlock_all()`. `snapshot` was
        taken by the leader session since the last migration; None to take one now.
        """
        snapshot = self.lock.verify(snapshot)
        raw = self._wrapper.connection
        if raw is not None and self._raw_pid not in snapshot.work_key_pids:
            self._take_work_lock(raw)

    def _take_work_lock(self, raw: psycopg.Connection[Any]) -> None:
        """Take the work key, then verify that this process leads, in this order (see the class)."""
        apply_session_settings(raw, PATROL_SETTINGS)
        deadline = Deadline(self._patience())
        while True:
            [(acquired, _, is_led)] = pinned_rows(raw, _TAKE_WORK_KEY, self._keys)
            if acquired:
                break
            if deadline.passed():
                raise _work_key_is_busy(raw, self.lock.work_key)
            sleep(deadline.clip(random.uniform(0.02, 0.2)))
        if not is_led:
            self._raise_lost()

    def owns_thread(self, thread: threading.Thread) -> bool:
        """Return True if the thread belongs to the run."""
        if thread is self._thread:
            return True
        return (
            not isinstance(thread, InitializationThread)
            and thread not in self._foreign_threads
        )

    def _fence(self, connection: BaseDatabaseWrapper, **kwargs: Any) -> None:
        thread = threading.current_thread()
        if connection.alias != self.alias or not self.owns_thread(thread):
            return
        if is_private(connection):
            return
        raw = connection.connection
        if thread is self._thread:
            # Django reconnects when it could not roll back.
            self.lost = self._is_gone()
            self._raw = raw
        try:
            pid = self._own_server_session(raw)
            self._take_work_lock(raw)
            if not raw.autocommit:
                raw.commit()
            self._opened.add(raw)
            if thread is self._thread:
                self._own.add(raw)
            if thread is self._thread:
                self._raw_pid = pid
        except BaseException:
            # Django leaves the connection open and usable if a receiver raises.
            raw.close()
            connection.connection = None
            raise

    def _own_server_session(self, raw: psycopg.Connection[Any]) -> int:
        [(pid,)] = pinned_rows(raw, "SELECT pg_backend_pid()")
        if pid != raw.info.backend_pid and self.direct is None:
            raise UnsafeConnection(
                f"A connection to {self.alias!r} goes through a connection pooler. "
                'Name the server itself in SAFE_INIT["DIRECT"].'
            )
        return int(pid)

    @property
    def _keys(self) -> dict[str, int]:
        return {
            "work_key": self.lock.work_key,
            "leader_key": self.lock.key,
            "leader": self._leader_pid,
        }

    def _raise_lost(self) -> NoReturn:
        """Raise `LockLost` for a connection that does not see this process's leader lock."""
        # A forked child cannot use the leader session.
        if os.getpid() != self._process:
            raise LockLost("The process that started this one no longer leads.")
        self.lock.verify()
        raise LockLost(
            f"A connection to {self.alias!r} has reached another server or database than the "
            "one in which this process leads. All addresses must lead to one primary: if HOST "
            'names several, set "target_session_attrs": "read-write" in OPTIONS.'
        )


def _work_key_is_busy(raw: psycopg.Connection[Any], key: int) -> LockWaitTimeout:
    rows = pinned_rows(raw, KEY_HOLDERS, {"key": key})
    holders = [Holder(*row) for row in rows]
    shown, _ = first_of(holders)
    text = (
        f"The work key {key} stayed locked by {name_all(holders)}, so this run could not be "
        "fenced off. Set another LOCK_KEY, or end the session."
    )
    commands = [each.remedy for each in shown]
    return LockWaitTimeout(with_commands(text, commands) if commands else text)


def _create_connection(alias: str) -> BaseDatabaseWrapper:
    thread = threading.current_thread()
    for fenced in list(_registry):
        if fenced.alias == alias and fenced.owns_thread(thread):
            return fenced.new_wrapper()
    wrapper: BaseDatabaseWrapper = type(connections).create_connection(
        connections, alias
    )
    return wrapper
