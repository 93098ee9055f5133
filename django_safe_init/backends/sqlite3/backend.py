"""Provide the backend for SQLite."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from django.db import connections

from django_safe_init.backends.base.backend import LockingBackend
from django_safe_init.backends.base.observer import BaseObserver
from django_safe_init.backends.sqlite3.lock_file import FileLock
from django_safe_init.backends.sqlite3.observer import SQLiteObserver
from django_safe_init.backends.sqlite3.paths import lock_file
from django_safe_init.backends.sqlite3.reader import SQLiteReader
from django_safe_init.backends.sqlite3.session import is_locked
from django_safe_init.exceptions import ConfigurationError

# Modules that only a leader, or one command, needs are imported where they are used: a start
# with nothing to do must stay fast.
if TYPE_CHECKING:
    from django_safe_init.backends.sqlite3.holder import SQLiteLockHolder
    from django_safe_init.backends.sqlite3.introspection import SQLiteIntrospection
    from django_safe_init.backends.sqlite3.run_session import SQLiteRunSession


class SQLiteBackend(LockingBackend):
    """The backend for SQLite, with the operating system's lock on a file beside the database.

    A leader's work ends with its process, so a successor has nothing to terminate.
    """

    @staticmethod
    def is_locked(error: BaseException) -> bool:
        return is_locked(str(error))

    def reader(self) -> SQLiteReader:
        context = self.context
        return SQLiteReader(context.alias, context.build, context.settings.lock_key)

    def introspection(self) -> SQLiteIntrospection:
        from django_safe_init.backends.sqlite3.introspection import open_introspection

        return open_introspection(self.context.alias)

    def lock_holder(self) -> AbstractContextManager[SQLiteLockHolder | None]:
        from django_safe_init.backends.sqlite3.holder import open_holder

        return open_holder(self.context)

    def check(self) -> None:
        alias = self.context.alias
        if not connections[alias].settings_dict["AUTOCOMMIT"]:
            raise ConfigurationError(
                f"DATABASES[{alias!r}] has AUTOCOMMIT False, with which Django "
                "cannot migrate SQLite. Take it out."
            )

    def observer(self) -> SQLiteObserver:
        return SQLiteObserver(self.context)

    def _acquire(self, observer: BaseObserver) -> FileLock | None:
        lock = FileLock(lock_file(self.context.alias))
        return lock if lock.try_acquire() else None

    def heartbeat(self, lock: FileLock) -> AbstractContextManager[None]:
        from django_safe_init.core.heartbeat import Heartbeat

        return Heartbeat(lock.beat)

    def open_run_session(self, lock: FileLock) -> SQLiteRunSession:
        from django_safe_init.backends.sqlite3.run_session import SQLiteRunSession

        return SQLiteRunSession(self.context, lock)
