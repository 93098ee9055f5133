"""Provide the session of a run on SQLite."""

from __future__ import annotations

import sqlite3
from contextlib import AbstractContextManager

from django.db import OperationalError
from django.db.backends.base.base import BaseDatabaseWrapper

from django_safe_init.backends.base.context import Context
from django_safe_init.backends.base.run_session import ErrorKind, RunSession
from django_safe_init.backends.sqlite3.introspection import SQLiteIntrospection
from django_safe_init.backends.sqlite3.lock_file import FileLock
from django_safe_init.backends.sqlite3.reader import SQLiteReader
from django_safe_init.backends.sqlite3.recorder import SQLiteRecorder
from django_safe_init.backends.sqlite3.run_connections import RunConnection
from django_safe_init.backends.sqlite3.session import SQLiteSession, is_locked
from django_safe_init.backends.sqlite3.transaction import SQLiteTransaction
from django_safe_init.core.text import exception_chain


class SQLiteRunSession(RunSession):
    """A run that records on one connection and migrates on another.

    A migration locks the whole file from its beginning, so it does not wait for single tables.
    """

    reader: SQLiteReader
    recorder: SQLiteRecorder

    def __init__(self, context: Context, lock: FileLock) -> None:
        alias, lock_key = context.alias, context.settings.lock_key
        self._context = context
        self._lock = lock
        self._session = SQLiteSession(alias, context.deadline)
        self.reader = SQLiteReader(alias, context.build, lock_key)
        self.recorder = SQLiteRecorder(
            self._session, context.build, lock_key, lock.verify
        )

    def connections(self) -> AbstractContextManager[BaseDatabaseWrapper]:
        return RunConnection(self._context.alias)

    def transaction(self, connection: BaseDatabaseWrapper) -> SQLiteTransaction:
        return SQLiteTransaction(connection)

    def _beat(self) -> None:
        self._lock.beat(self.recorder.progress_record())

    def verify(self) -> None:
        self._lock.verify()

    def classify(self, error: BaseException) -> ErrorKind:
        """Return `TRANSIENT` if another program locked the file for too long.

        No error is `LOST`: no other process can end a connection to a file.
        """
        if any(map(_is_locked, exception_chain(error))):
            return ErrorKind.TRANSIENT
        return ErrorKind.OTHER

    def introspection(self) -> SQLiteIntrospection:
        return SQLiteIntrospection(self._context.alias, self._session.rows)

    def close(self) -> None:
        self.reader.close()
        self._session.close()


def _is_locked(error: BaseException) -> bool:
    locked = isinstance(error, (OperationalError, sqlite3.OperationalError))
    return locked and is_locked(str(error))
