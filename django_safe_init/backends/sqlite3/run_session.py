"""Provide the session of a run on SQLite."""

from __future__ import annotations

import sqlite3
from contextlib import AbstractContextManager

from django.db import OperationalError
from django.db.backends.base.base import BaseDatabaseWrapper

from django_safe_init.backends.base.context import Context
from django_safe_init.backends.base.journal import JournalWriter
from django_safe_init.backends.base.run_session import ErrorKind, RunSession
from django_safe_init.backends.base.sql_effects import SQLEffect
from django_safe_init.backends.base.transaction import is_refused_transaction
from django_safe_init.backends.sqlite3.introspection import SQLiteIntrospection
from django_safe_init.backends.sqlite3.lock_file import FileLock
from django_safe_init.backends.sqlite3.reader import SQLiteReader
from django_safe_init.backends.sqlite3.recorder import SQLiteRecorder
from django_safe_init.backends.sqlite3.run_connections import RunConnection
from django_safe_init.backends.sqlite3.schema import NOW, ensure_journal
from django_safe_init.backends.sqlite3.session import SQLiteSession, is_locked
from django_safe_init.backends.sqlite3.sql_effects import effect_of
from django_safe_init.backends.sqlite3.transaction import SQLiteTransaction
from django_safe_init.core.text import exception_chain

#: Django formats a statement with parameters, also on SQLite.
_NOW = NOW.replace("%", "%%")
#: The ends of SQLite's errors for statements that it refuses in a transaction.
_REFUSALS = ("within a transaction", "inside a transaction")


def _needs_no_transaction(error: BaseException) -> bool:
    refused = isinstance(error, (sqlite3.OperationalError, OperationalError))
    return is_refused_transaction(error) or (
        refused and any(text in str(error) for text in _REFUSALS)
    )


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

    def ensure_journal(self) -> bool:
        if not self.recorder.used_journal:
            with self._session.writing():
                ensure_journal(self._session)
            self.recorder.used_journal = True
        return True

    def journal(self, connection: BaseDatabaseWrapper) -> JournalWriter:
        return JournalWriter(
            connection, self.recorder.lock_key, self.recorder.run_id, _NOW
        )

    def needs_no_transaction(self, error: BaseException) -> bool:
        return any(map(_needs_no_transaction, exception_chain(error)))

    def effect_of(self, sql: str) -> SQLEffect:
        return effect_of(sql)

    def introspection(self) -> SQLiteIntrospection:
        return SQLiteIntrospection(self._context.alias, self._session.rows)

    def close(self) -> None:
        self.reader.close()
        self._session.close()


def _is_locked(error: BaseException) -> bool:
    locked = isinstance(error, (OperationalError, sqlite3.OperationalError))
    return locked and is_locked(str(error))
