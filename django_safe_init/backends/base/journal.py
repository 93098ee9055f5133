"""Write the journal of one migration, on the connection that migrates.

An entry and the work that it stands for are committed together wherever the work can run in a
transaction. So the migrating connection writes them, and not the leader's own session.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

from django_safe_init.core.records import (
    OPERATION_TABLE,
    EntryKind,
    EntryState,
    JournalEntry,
)

_COLUMNS = (
    "migration, recorded, kind, position, part, state, fingerprint, detail, run_id"
)

#: The rows of one statement: old versions of SQLite allow 999 parameters.
_ROWS = 50

#: The fields of `JournalEntry`, oldest first.
READ_JOURNAL = f"""
    SELECT {_COLUMNS} FROM {OPERATION_TABLE}
    WHERE lock_key = %(lock_key)s AND kind <> '{EntryKind.PROGRESS.value}'
    ORDER BY migration, kind, position, part, id
"""


class JournalWriter:
    """Writes the entries of one migration.

    `qualify` returns a statement with the qualified names of the tables, and `equals` is the
    operator that no other role can replace on the project's search path.
    """

    def __init__(
        self,
        connection: BaseDatabaseWrapper,
        lock_key: str,
        run: int,
        now_sql: str,
        qualify: Callable[[str], str] = lambda statement: statement,
        equals: str = "=",
        own_role: tuple[str, ...] = (),
    ) -> None:
        self.connection = connection
        self._lock_key = lock_key
        self._run = run
        self._now = now_sql
        self._qualify = qualify
        self._equals = equals
        #: Statements that give the transaction the role of the connection again.
        self._own_role = own_role
        #: True once the migration has taken another role, which may not write the journal.
        self.needs_own_role = False
        #: The values of the rows that the block of `together` inserts at its end.
        self._waiting: list[list[Any]] | None = None

    @contextmanager
    def together(self) -> Iterator[None]:
        """Insert all new entries of the block with one statement at its end."""
        waiting: list[list[Any]] = []
        self._waiting = waiting
        try:
            yield
        finally:
            self._waiting = None
        for start in range(0, len(waiting), _ROWS):
            self._insert(waiting[start : start + _ROWS])

    def insert(
        self,
        migration: str,
        recorded: bool,
        kind: EntryKind,
        position: int,
        part: int = 0,
        state: EntryState = EntryState.DONE,
        fingerprint: str = "",
        detail: Any = None,
    ) -> JournalEntry:
        """Insert an entry, and return it."""
        entry = JournalEntry(
            migration,
            recorded,
            kind,
            position,
            part,
            state,
            fingerprint,
            detail,
            self._run,
        )
        values = [
            migration,
            recorded,
            kind.value,
            position,
            part,
            state.value,
            fingerprint,
            None if detail is None else json.dumps(detail),
            self._run,
        ]
        if self._waiting is None:
            self._insert([values])
        else:
            self._waiting.append(values)
        return entry

    def _insert(self, rows: list[list[Any]]) -> None:
        row = f"(%s, {', '.join(['%s'] * len(rows[0]))}, {self._now})"
        self._execute(
            f"INSERT INTO {OPERATION_TABLE} (lock_key, {_COLUMNS}, written_at)"
            f" VALUES {', '.join([row] * len(rows))}",
            [value for values in rows for value in (self._lock_key, *values)],
        )

    def update(self, entry: JournalEntry, **changes: Any) -> JournalEntry:
        """Change the state, the fingerprint or the detail of an entry, and return it changed."""
        changed = entry._replace(**changes, run=self._run)
        detail = None if changed.detail is None else json.dumps(changed.detail)
        where, params = self._where(entry)
        self._execute(
            f"UPDATE {OPERATION_TABLE} SET state = %s, fingerprint = %s, detail = %s,"
            f" run_id = %s, written_at = {self._now} WHERE {where}",
            [changed.state.value, changed.fingerprint, detail, self._run, *params],
        )
        return changed

    def delete(self, entry: JournalEntry) -> None:
        """Delete an entry."""
        where, params = self._where(entry)
        self._execute(f"DELETE FROM {OPERATION_TABLE} WHERE {where}", params)

    def clear(self, migration: str) -> None:
        """Delete all entries of a migration, except the evidence of progress."""
        where = self._condition("lock_key", "migration")
        kinds = [each.value for each in EntryKind if each is not EntryKind.PROGRESS]
        is_kind = " OR ".join([self._condition("kind")] * len(kinds))
        self._execute(
            f"DELETE FROM {OPERATION_TABLE} WHERE {where} AND ({is_kind})",
            [self._lock_key, migration, *kinds],
        )

    def _where(self, entry: JournalEntry) -> tuple[str, list[Any]]:
        where = self._condition("lock_key", "migration", "kind", "position", "part")
        values = [entry.migration, entry.kind.value, entry.position, entry.part]
        return where, [self._lock_key, *values]

    def _condition(self, *columns: str) -> str:
        return " AND ".join(f"{column} {self._equals} %s" for column in columns)

    def _execute(self, statement: str, params: list[Any]) -> None:
        with self.connection.cursor() as cursor:
            for each in self._own_role if self.needs_own_role else ():
                cursor.execute(each)
            cursor.execute(self._qualify(statement), params)
