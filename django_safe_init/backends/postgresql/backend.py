"""Provide the backend for PostgreSQL."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from django_safe_init.backends.base.backend import LockingBackend
from django_safe_init.backends.base.observer import BaseObserver
from django_safe_init.backends.postgresql import errors
from django_safe_init.backends.postgresql.connect import connect, create_direct_wrapper
from django_safe_init.backends.postgresql.errors import translate_errors
from django_safe_init.backends.postgresql.lock_keys import LOCK_TIMEOUT
from django_safe_init.backends.postgresql.observer import PostgresObserver
from django_safe_init.backends.postgresql.reader import PostgresReader
from django_safe_init.backends.postgresql.session import Session
from django_safe_init.core.deadline import Deadline
from django_safe_init.core.text import exception_chain

# Modules that only a leader, or one command, needs are imported where they are used: a start
# with nothing to do must stay fast.
if TYPE_CHECKING:
    from django_safe_init.backends.postgresql.holder import PostgresLockHolder
    from django_safe_init.backends.postgresql.introspection import (
        PostgresIntrospection,
    )
    from django_safe_init.backends.postgresql.lock import AdvisoryLock
    from django_safe_init.backends.postgresql.losses import PostgresLossDetector
    from django_safe_init.backends.postgresql.run_session import PostgresRunSession


class PostgresBackend(LockingBackend):
    """The backend for PostgreSQL, with an advisory lock on a direct session."""

    @staticmethod
    def is_busy(error: Exception) -> bool:
        return errors.is_busy(error)

    @staticmethod
    def is_connection_loss(error: BaseException) -> bool:
        lost = any(map(errors.is_connection_loss, exception_chain(error)))
        return lost and not errors.is_final(str(error))

    @staticmethod
    def is_locked(error: BaseException) -> bool:
        return any(map(errors.is_locked, exception_chain(error)))

    @staticmethod
    def loss_detector() -> PostgresLossDetector:
        from django_safe_init.backends.postgresql.losses import PostgresLossDetector

        return PostgresLossDetector()

    def translated_errors(self) -> AbstractContextManager[None]:
        return errors.translate_session_errors(self.context.alias)

    def wait_for_server(self) -> None:
        with self._connect("safe_init waiting", direct=True):
            pass

    def reader(self) -> PostgresReader:
        session = self._connect("safe_init status")
        return PostgresReader(
            session, self.context.build, self.context.settings.lock_key
        )

    def introspection(self) -> PostgresIntrospection:
        from django_safe_init.backends.postgresql.introspection import (
            PostgresIntrospection,
        )

        session = self._connect("safe_init validate")
        return PostgresIntrospection(session, self.context.settings, session.read)

    def lock_holder(self) -> AbstractContextManager[PostgresLockHolder | None]:
        from django_safe_init.backends.postgresql.holder import open_holder

        return open_holder(self.context)

    def observer(self) -> PostgresObserver:
        return PostgresObserver(self.context)

    def _acquire(self, observer: BaseObserver) -> AdvisoryLock | None:
        assert isinstance(observer, PostgresObserver)
        with translate_errors():
            return self._acquire_on(observer.direct_reader().session)

    def _acquire_on(self, session: Session) -> AdvisoryLock | None:
        from django_safe_init.backends.postgresql.connection_checks import (
            check_direct_connection,
        )
        from django_safe_init.backends.postgresql.lock import AdvisoryLock

        session.is_new = False  # another leader may have come and gone
        declared = self.context.direct is not None
        if check_direct_connection(session, declared=declared).behind_pooler:
            # Before the first attempt: a pooler that shares sessions would leave the lock on a
            # session that other clients get.
            self._check_lock_excludes(session)
        session.apply_session_settings()
        lock = AdvisoryLock(session, self.context.settings.lock_key)
        return lock if lock.try_acquire() else None

    def terminate_predecessors(self, lock: AdvisoryLock) -> None:
        deadline = Deadline(
            self.context.deadline.clip(self.context.settings.wait_timeout)
        )
        with translate_errors():
            lock.session.rows(f"SET lock_timeout = '{LOCK_TIMEOUT}'")
            self._check_lock_excludes(lock.session)
            lock.terminate_predecessors(self.context.report, deadline)

    def heartbeat(self, lock: AdvisoryLock) -> AbstractContextManager[None]:
        from django_safe_init.core.heartbeat import Heartbeat

        return Heartbeat(lock.verify)

    def open_run_session(self, lock: AdvisoryLock) -> PostgresRunSession:
        from django_safe_init.backends.postgresql.run_session import PostgresRunSession

        return PostgresRunSession(self.context, lock)

    def _check_lock_excludes(self, session: Session) -> None:
        from django_safe_init.backends.postgresql.connection_checks import (
            check_lock_excludes,
        )
        from django_safe_init.backends.postgresql.connection_limits import check_limits

        check_limits(session)
        with self._connect("safe_init probe", direct=True) as second:
            check_lock_excludes(session, second)

    def _connect(self, name: str, *, direct: bool = False) -> Session:
        context = self.context
        wrapper = create_direct_wrapper(
            context.alias, context.direct if direct else None
        )
        return connect(
            wrapper, context.settings, context.deadline, name, context.report
        )
