"""Keep the journal of one migration, and decide from it which operations still have work."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

from django_safe_init.backends.base.journal import JournalWriter
from django_safe_init.core.records import EntryKind, EntryState, JournalEntry
from django_safe_init.initialization.deferred_sql import UnknownReference, dump, load
from django_safe_init.initialization.fingerprints import digest

_BATCH = EntryKind.BATCH

#: The number of an operation, and of a statement in it; 0 for the whole operation.
Place = tuple[int, int]


class _Deferred(NamedTuple):
    """One item of the deferred SQL, as it is in the table."""

    item: Any
    #: Its stored form.
    stored: Any
    #: The number of the operation that has added it.
    number: int


class Journal:
    """The journal of one migration: in the table, and as it was read from there.

    An operation is in the journal if its effect on the database differs from the record of the
    migration: it is done although the migration is not recorded, or undone although it is. The
    methods write on the migrating connection, in its transaction if one is open.
    """

    def __init__(
        self,
        writer: JournalWriter,
        migration: str,
        recorded: bool,
        entries: Iterable[JournalEntry] = (),
    ) -> None:
        self.migration = migration
        #: True if the migration was recorded as applied when the journal began.
        self.recorded = recorded
        self._writer = writer
        self._entries: dict[tuple[EntryKind, int, int], JournalEntry] = {
            (each.kind, each.position, each.part): each for each in entries
        }
        #: The deferred SQL in the table, by its rank.
        self._deferred: dict[int, _Deferred] = {}
        self._shows_progress = False

    @property
    def has_own_role(self) -> bool:
        """True once the migration has taken another role, which may not write the journal."""
        return self._writer.needs_own_role

    @has_own_role.setter
    def has_own_role(self, value: bool) -> None:
        self._writer.needs_own_role = value

    def open(self, names: list[str], policy: str) -> None:
        """Record the operations of the migration and its policy, for the status."""
        detail = {"operations": names, "policy": policy}
        entry = self._entries.get((EntryKind.MIGRATION, 0, 0))
        if entry is None:
            self._insert(EntryKind.MIGRATION, (0, 0), detail=detail)
        elif entry.detail != detail:
            self._replace(self._writer.update(entry, detail=detail))

    def close(self) -> None:
        """Delete the journal."""
        self._writer.clear(self.migration)
        self._entries.clear()

    def together(self) -> AbstractContextManager[None]:
        """Return a context manager that writes the new entries of its block together."""
        return self._writer.together()

    def checkpoint(self) -> Callable[[], None]:
        """Return a function that forgets all later changes, after a rollback."""
        entries, deferred = dict(self._entries), dict(self._deferred)
        shows_progress = self._shows_progress

        def restore() -> None:
            self._entries, self._deferred = entries, deferred
            self._shows_progress = shows_progress

        return restore

    # Operations and statements

    def has_changed(self, position: int) -> bool:
        """Return True if the operation differs from the migration's record."""
        entry = self.entry((position, 0))
        return entry is not None and entry.state is EntryState.DONE

    def entry(self, place: Place) -> JournalEntry | None:
        """Return the entry of an operation or statement."""
        kind = EntryKind.STATEMENT if place[1] else EntryKind.OPERATION
        return self._entries.get((kind, *place))

    def entries(self) -> list[JournalEntry]:
        """Return the entries of operations and statements, in their order."""
        kinds = (EntryKind.OPERATION, EntryKind.STATEMENT)
        found = [each for each in self._entries.values() if each.kind in kinds]
        return sorted(found, key=lambda each: (each.position, each.part))

    def has_statements(self, position: int) -> bool:
        """Return True if statements of the operation have entries."""
        kind = EntryKind.STATEMENT
        return any(key[:2] == (kind, position) for key in self._entries)

    @property
    def in_doubt(self) -> JournalEntry | None:
        """Return the entry whose work began outside of a transaction, and may have ended."""
        for entry in self.entries():
            if entry.state is not EntryState.DONE:
                return entry
        return None

    def finish(
        self,
        place: Place,
        fingerprint: str,
        detail: Any = None,
        *,
        changed: bool = True,
    ) -> None:
        """Record that the work on the operation or statement is done.

        With `changed` it differs from the record of the migration now; else it does not any more.
        """
        self._show_progress()
        entry = self.entry(place)
        if not changed:
            self.forget(place)
        elif entry is None:
            self._insert_operation(place, EntryState.DONE, fingerprint, detail)
        else:
            changes = {"state": EntryState.DONE, "detail": detail}
            self._replace(
                self._writer.update(entry, fingerprint=fingerprint, **changes)
            )

    def _show_progress(self) -> None:
        """Record once that this run has finished some work: its death is no failure."""
        if not self._shows_progress:
            self._writer.insert(
                self.migration, self.recorded, EntryKind.PROGRESS, position=0
            )
            self._shows_progress = True

    def start(self, place: Place, fingerprint: str, detail: Any = None) -> None:
        """Record that the work begins outside of a transaction, perhaps in another form."""
        entry = self.entry(place)
        if entry is None:
            self._insert_operation(place, EntryState.STARTED, fingerprint, detail)
            return
        is_done = entry.state is EntryState.DONE
        changes = {
            "state": EntryState.UNDOING if is_done else entry.state,
            "detail": detail,
        }
        self._replace(self._writer.update(entry, fingerprint=fingerprint, **changes))

    def is_started(self, place: Place, fingerprint: str) -> bool:
        """Return True if the work has begun outside of a transaction, in the same form."""
        entry = self.entry(place)
        if entry is None or entry.state is EntryState.DONE:
            return False
        return entry.fingerprint == fingerprint

    def settle(self, place: Place, *, done: bool) -> None:
        """Record how the work that was in doubt ended: the operation is done, or not."""
        entry = self.entry(place)
        assert entry is not None  # the caller has read it
        if done is (entry.state is EntryState.STARTED):
            self._replace(self._writer.update(entry, state=EntryState.DONE))
        else:
            self.forget(place)

    def forget(self, place: Place) -> None:
        """Delete the entry of an operation or statement."""
        kind = EntryKind.STATEMENT if place[1] else EntryKind.OPERATION
        self._writer.delete(self._entries.pop((kind, *place)))

    def forget_statements(self, position: int) -> None:
        """Delete the entries of the statements of an operation."""
        for entry in self.entries():
            if entry.position == position and entry.part:
                self.forget((position, entry.part))

    # The session

    def repeat_session(self, connection: BaseDatabaseWrapper, *, roles: bool) -> None:
        """Execute `SET` of finished operations again: their session has ended.

        Of each parameter the last value counts. A parameter that was reset needs no statement.
        With `roles` only roles are set, which may be unable to write the journal; else only other
        parameters.
        """
        for statement in self._session_statements():
            if takes_role(statement) is roles:
                with connection.cursor() as cursor:
                    cursor.execute(statement)

    def _session_statements(self) -> list[str]:
        found = self.entries()
        last: dict[str, str] = {}
        for entry in reversed(found) if self.recorded else found:
            for statement in (entry.detail or {}).get("session", ()):
                parameter = _parameter(statement)
                last.pop(parameter, None)
                if parameter == "all":
                    last.clear()
                else:
                    last[parameter] = statement
        return [each for each in last.values() if not each.upper().startswith("RESET")]

    # Positions of loops over batches

    def read_position(self, number: int, loop: str) -> str | None:
        """Return the last primary key of a loop of the operation; None if it has to begin."""
        entry = self._position(number, loop)
        return None if entry is None else str(entry.detail["after"])

    def write_position(
        self, number: int, loop: str, key: str, *, backwards: bool
    ) -> None:
        """Record the last primary key of a loop of the operation."""
        self._show_progress()
        entry = self._position(number, loop)
        detail = {"after": key, "backwards": backwards}
        if entry is not None:
            self._replace(self._writer.update(entry, detail=detail))
            return
        parts = [part for kind, position, part in self._entries if kind is _BATCH]
        place = number, max(parts, default=0) + 1
        self._insert(_BATCH, place, fingerprint=loop, detail=detail)

    def _position(self, number: int, loop: str) -> JournalEntry | None:
        for (kind, position, _), entry in self._entries.items():
            if (kind, position) == (_BATCH, number) and entry.fingerprint == loop:
                return entry
        return None

    def has_positions(self, number: int, *, backwards: bool) -> bool:
        """Return True if loops of the operation have positions in this direction."""
        return any(
            key[:2] == (_BATCH, number) and entry.detail["backwards"] is backwards
            for key, entry in self._entries.items()
        )

    def forget_positions(self, number: int) -> None:
        """Delete the positions of the loops of the operation."""
        for key, entry in list(self._entries.items()):
            if key[:2] == (_BATCH, number):
                self._writer.delete(entry)
                del self._entries[key]

    # Deferred SQL

    def restore_deferred(self, editor: BaseDatabaseSchemaEditor) -> None:
        """Give the editor the deferred SQL of the finished operations."""
        entries = [
            each for each in self._entries.values() if each.kind is EntryKind.DEFERRED
        ]
        self._deferred = {
            each.position: _Deferred(load(each.detail, editor), each.detail, each.part)
            for each in sorted(entries, key=lambda each: each.position)
        }
        editor.deferred_sql[:] = [each.item for each in self._deferred.values()]

    def reset_deferred(self, editor: BaseDatabaseSchemaEditor) -> None:
        """Give the editor the deferred SQL as it was last stored, after a rollback."""
        self._deferred = {
            rank: each._replace(item=load(each.stored, editor))
            for rank, each in self._deferred.items()
        }
        editor.deferred_sql[:] = [each.item for each in self._deferred.values()]

    def store_deferred(
        self,
        editor: BaseDatabaseSchemaEditor,
        number: int,
        *,
        backwards: bool,
        may_have_renamed: bool,
    ) -> None:
        """Write the changes of the editor's deferred SQL by the operation of this number.

        Without `may_have_renamed` the known items are not compared, which takes a while.
        """
        ranks = {id(each.item): rank for rank, each in self._deferred.items()}
        present = {ranks.get(id(item), 0) for item in editor.deferred_sql}
        for rank in [rank for rank in self._deferred if rank not in present]:
            self._delete_deferred(rank)
        for item in editor.deferred_sql:
            known = ranks.get(id(item))
            if known is None or may_have_renamed:
                self._store(known, _dump(item, editor), item, number, backwards)

    def finish_deferred(self, item: Any) -> None:
        """Record that an item of the deferred SQL was executed, or is not needed."""
        self._show_progress()
        for rank in [
            rank for rank, each in self._deferred.items() if each.item is item
        ]:
            self._delete_deferred(rank)

    def forget_deferred_from(self, number: int) -> None:
        """Delete the deferred SQL of the operations from this number on."""
        for entry in list(self._entries.values()):
            if entry.kind is EntryKind.DEFERRED and entry.part >= number:
                self._writer.delete(entry)
                del self._entries[entry.kind, entry.position, entry.part]

    def deferred_of(self, number: int, *, backwards: bool) -> list[Any]:
        """Return the deferred SQL that the operation has left in this direction."""
        state = self._deferred_state(backwards)
        return [
            each.item
            for rank, each in self._deferred.items()
            if each.number == number and self._deferred_entry(rank).state is state
        ]

    def _deferred_state(self, backwards: bool) -> EntryState:
        """Return the state of deferred SQL that a run in this direction leaves."""
        goes_on = backwards is self.recorded
        return EntryState.DONE if goes_on else EntryState.UNDOING

    def _store(
        self, rank: int | None, stored: Any, item: Any, number: int, backwards: bool
    ) -> None:
        if rank is None:
            rank = max(self._deferred, default=0) + 1
            state = self._deferred_state(backwards)
            self._insert(EntryKind.DEFERRED, (rank, number), state, detail=stored)
            self._deferred[rank] = _Deferred(item, stored, number)
        elif self._deferred[rank].stored != stored:
            entry = self._deferred_entry(rank)
            self._replace(self._writer.update(entry, detail=stored))
            self._deferred[rank] = self._deferred[rank]._replace(stored=stored)

    def _delete_deferred(self, rank: int) -> None:
        entry = self._deferred_entry(rank)
        self._writer.delete(entry)
        del self._entries[entry.kind, rank, entry.part], self._deferred[rank]

    def _deferred_entry(self, rank: int) -> JournalEntry:
        """Return the entry of an item; its part is the operation that has added the item."""
        return self._entries[EntryKind.DEFERRED, rank, self._deferred[rank].number]

    # Rows

    def _insert_operation(
        self, place: Place, state: EntryState, fingerprint: str, detail: Any
    ) -> None:
        kind = EntryKind.STATEMENT if place[1] else EntryKind.OPERATION
        self._insert(kind, place, state, fingerprint, detail)

    def _insert(
        self,
        kind: EntryKind,
        place: Place,
        state: EntryState = EntryState.DONE,
        fingerprint: str = "",
        detail: Any = None,
    ) -> None:
        self._replace(
            self._writer.insert(
                self.migration, self.recorded, kind, *place, state, fingerprint, detail
            )
        )

    def _replace(self, entry: JournalEntry) -> None:
        self._entries[entry.kind, entry.position, entry.part] = entry


def takes_role(statement: str) -> bool:
    """Return True if the statement changes the role of the session."""
    return bool({"ROLE", "AUTHORIZATION"} & set(statement.upper().split()))


def _parameter(statement: str) -> str:
    """Return the parameter that `SET`, `RESET` or `PRAGMA` changes."""
    words = re.findall(r"[\w.]+", statement.lower())
    return next((each for each in words[1:] if each != "session"), "")


def _dump(item: Any, editor: BaseDatabaseSchemaEditor) -> Any:
    """Return the item as values of JSON: as text, if a package's own object is a part of it."""
    try:
        return dump(item, editor)
    except UnknownReference:
        return str(item)


class LoopPositions:
    """The positions of the loops of one operation, see `for_each_batch`."""

    def __init__(
        self, journal: Journal, number: int, name: str, alias: str, *, backwards: bool
    ) -> None:
        self.alias = alias
        self._journal = journal
        self._number = number
        self._name = name
        self._backwards = backwards

    def read(self, loop: str) -> str | None:
        """Return the last primary key of the loop; None if it has to begin."""
        return self._journal.read_position(self._number, self._mark(loop))

    def write(self, loop: str, key: str) -> None:
        """Record the last primary key of the loop."""
        backwards = self._backwards
        self._journal.write_position(
            self._number, self._mark(loop), key, backwards=backwards
        )

    def _mark(self, loop: str) -> str:
        """Return the digest of the loop: another operation or direction has its own."""
        return digest(loop, self._name, self._backwards)
