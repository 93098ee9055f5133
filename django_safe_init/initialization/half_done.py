"""Find the migrations that earlier leaders left half done, and prepare each to go on.

A forward migration is half done if it is not recorded and some of its operations are done. A
reversal is half done if its migration is recorded and some of its operations are undone.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations import Migration
from django.db.migrations.exceptions import IrreversibleError
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.operations.base import Operation
from django.db.migrations.state import ProjectState

from django_safe_init.backends.base.run_session import RunSession
from django_safe_init.core.records import EntryState, JournalEntry
from django_safe_init.core.text import Hint, name_some
from django_safe_init.exceptions import ConfigurationError, UnfinishedMigration
from django_safe_init.initialization.doubt import Doubt, policy_of
from django_safe_init.initialization.fingerprints import fingerprint
from django_safe_init.initialization.journal import Journal, Place
from django_safe_init.initialization.operation_names import name_operation
from django_safe_init.initialization.operations import (
    count_statements,
    flat,
    is_constant,
    session_of,
)

logger = logging.getLogger("django_safe_init")

Key = tuple[str, str]
#: The app and the migration that a command names: its name, "zero", or "" for all of the app.
Target = tuple[str, str]

_RESUME = re.compile(
    r"(?P<name>\w+\.[^:]+):(?P<number>[1-9]\d*)(?:\.(?P<part>[1-9]\d*))?"
)


class Tracker(Protocol):
    """The part of a `MigrationTracker` that runs one migration."""

    def run_turned(self, migration: Migration, state: ProjectState) -> None:
        """Take the finished operations of the migration back."""


class Resumption(NamedTuple):
    """The operation with which a person lets a half-done migration go on."""

    name: str
    place: Place

    @classmethod
    def parse(cls, text: str) -> Resumption:
        """Return the resumption of `APP.NAME:N` or `APP.NAME:N.STATEMENT`.

        Raises `ConfigurationError` for any other text.
        """
        found = _RESUME.fullmatch(text)
        if found is None:
            raise ConfigurationError(
                f"--resume {text}: that names no operation. Use APP.NAME:N, where N is the number "
                "of the operation with which the migration goes on."
            )
        return cls(found["name"], (int(found["number"]), int(found["part"] or 0)))


class HalfDoneMigrations:
    """The journals of earlier leaders, by migration.

    `reruns` are migrations that begin again from their first operation. Raises
    `ConfigurationError` if a resumption names another migration.
    """

    def __init__(
        self,
        session: RunSession,
        entries: Iterable[JournalEntry],
        *,
        policy: str,
        where: str,
        reruns: Iterable[str],
        resumptions: Sequence[Resumption],
    ) -> None:
        self.session = session
        self.policy = policy
        self.where = where
        self._reruns = frozenset(reruns)
        self._entries: dict[str, list[JournalEntry]] = {}
        for entry in entries:
            self._entries.setdefault(entry.migration, []).append(entry)
        self._resumptions = {each.name: each.place for each in resumptions}
        for name in self._resumptions:
            if name not in self._entries:
                known = name_some(sorted(self._entries)) or "none is"
                raise ConfigurationError(
                    f"--resume {name}: that is not half done. Half done: {known}."
                )

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    @property
    def half_undone(self) -> list[str]:
        """The recorded migrations that lack some of their operations."""
        return sorted(filter(self.is_recorded, self._entries))

    def finish(self, name: str) -> None:
        """Note that the migration is not half done any more."""
        self._entries.pop(name, None)

    # At the start of a run

    def prepare(
        self, connection: BaseDatabaseWrapper, tracker: Tracker, target: Target | None
    ) -> None:
        """Delete journals without use, and turn round what the target does not want.

        `target` is None for all migrations. Raises `UnfinishedMigration` if this build cannot go
        on with a migration.
        """
        if not self._entries:
            return
        executor = MigrationExecutor(connection)
        for name in list(self._entries):
            self._check(executor, connection, name)
        for name in sorted(self._entries, reverse=True):
            migration = executor.loader.graph.nodes[_key(name)]
            if self._is_turned(executor, name, target):
                state = executor.loader.project_state(_key(name), at_end=False)
                tracker.run_turned(migration, state)
                self.finish(name)

    def accept_fake(
        self, connection: BaseDatabaseWrapper, target: Target | None
    ) -> None:
        """Delete the journals of recorded migrations that `--fake` declares applied."""
        if not self.half_undone:
            return
        executor = MigrationExecutor(connection)
        for name in self.half_undone:
            is_known = _key(name) in executor.loader.graph.nodes
            if is_known and self._is_turned(executor, name, target):
                self.forget(connection, name)

    def _check(
        self, executor: MigrationExecutor, connection: BaseDatabaseWrapper, name: str
    ) -> None:
        recorded = _key(name) in executor.recorder.applied_migrations()
        if name in self._reruns and recorded and self.is_recorded(name):
            raise ConfigurationError(
                f"--rerun {name}: it is applied, and some of its operations are undone. Name the "
                "first of these with --resume."
            )
        if name in self._reruns or recorded is not self.is_recorded(name):
            if name not in self._reruns:
                logger.warning(
                    "%s was half done, and was finished without this package since.",
                    name,
                )
            self.forget(connection, name)
        elif _key(name) not in executor.loader.graph.nodes:
            raise UnfinishedMigration(
                Hint(
                    f"{name} is half done, and this build does not have it, or replaces it by a "
                    "squashed migration. Start the build that began it, or give up what is done "
                    "of it:",
                    f"python manage.py safe_migrate{self.where} --rerun {name}",
                ),
                failed_migration=name,
            )

    def is_recorded(self, name: str) -> bool:
        """Return True if the migration was recorded when its journal began."""
        return self._entries[name][0].recorded

    def forget(self, connection: BaseDatabaseWrapper, name: str) -> None:
        """Delete the journal of a migration that is half done."""
        del self._entries[name]
        self.session.journal(connection).clear(name)

    def _is_turned(
        self, executor: MigrationExecutor, name: str, target: Target | None
    ) -> bool:
        """Return True if the run wants the opposite of what was begun."""
        key, recorded = _key(name), self.is_recorded(name)
        if target is None:
            return recorded
        graph = executor.loader.graph
        targets = _targets(executor, target)
        plan = executor.migration_plan(targets)
        reversed_keys = [
            (each.app_label, each.name) for each, backwards in plan if backwards
        ]
        if recorded:
            return target[0] == key[0] and key not in reversed_keys
        if any(key in graph.backwards_plan(each) for each in reversed_keys):
            return True
        return target[0] == key[0] and not any(
            each[1] is not None and key in graph.forwards_plan(each) for each in targets
        )

    # At the start of a migration

    def open_journal(
        self,
        connection: BaseDatabaseWrapper,
        migration: Migration,
        *,
        backwards: bool,
    ) -> Journal | None:
        """Return the journal of the migration, without doubt; None for an engine without one.

        Raises `UnfinishedMigration` when a person has to decide.
        """
        name = f"{migration.app_label}.{migration.name}"
        entries = self._entries.get(name, ())
        recorded = entries[0].recorded if entries else backwards
        if not self.session.ensure_journal():
            return None
        journal = Journal(self.session.journal(connection), name, recorded, entries)
        if entries:
            self._prepare_journal(connection, migration, journal, backwards)
        return journal

    def _prepare_journal(
        self,
        connection: BaseDatabaseWrapper,
        migration: Migration,
        journal: Journal,
        backwards: bool,
    ) -> None:
        operations = list(flat(migration.operations))
        place = self._resumptions.get(journal.migration)
        if place is not None:
            self._resume(connection, journal, operations, place)
        self._check_unchanged(migration, journal, operations)
        if backwards and not journal.recorded:
            _require_reversible(migration, journal, operations)
        # The names of indexes depend on the search path.
        journal.repeat_session(connection, roles=False)
        entry = journal.in_doubt
        if entry is not None:
            Doubt(
                self.session,
                connection,
                migration,
                journal,
                entry,
                len(operations),
                backwards,
                policy_of(migration, self.policy),
                self.where,
            ).resolve()

    def _resume(
        self,
        connection: BaseDatabaseWrapper,
        journal: Journal,
        operations: list[Operation],
        place: Place,
    ) -> None:
        """Change the journal as if just the operations before the place were applied."""
        number, part = place
        last = len(operations) if part else len(operations) + 1
        if number > last or (part and journal.recorded):
            raise ConfigurationError(
                f"--resume {journal.migration}:{number}: it has {len(operations)} operations, and "
                "the statements of one count only forwards."
            )
        if part:
            count = count_statements(operations[number - 1], connection)
            if part > count:
                raise ConfigurationError(
                    f"--resume {journal.migration}:{number}.{part}: the operation is no list of so "
                    f"many statements. It has {count}."
                )
        journal.forget_deferred_from(number)
        for entry in journal.entries():
            journal.forget((entry.position, entry.part))
        for position, operation in enumerate(operations, 1):
            if (position < number) is journal.recorded:
                continue  # it is as the record says
            statements = session_of(operation, self.session, connection)
            detail = {"session": statements} if statements else None
            journal.finish((position, 0), fingerprint(operation), detail)
        for each in range(1, part):
            journal.finish((number, each), "")

    def _check_unchanged(
        self, migration: Migration, journal: Journal, operations: list[Operation]
    ) -> None:
        """Raise `UnfinishedMigration` if a finished operation is not the same any more."""
        for entry in journal.entries():
            if entry.part or entry.state is not EntryState.DONE:
                continue
            number = entry.position
            if number <= len(operations):
                operation = operations[number - 1]
                is_same = fingerprint(operation) == entry.fingerprint
                if is_same or not is_constant(migration, number):
                    continue
                what = f"operation {number} ({name_operation(operation)})"
            else:
                what = f"operation {number}"
            raise UnfinishedMigration(
                self._changed(journal, what, len(operations)),
                failed_migration=journal.migration,
            )

    def _changed(self, journal: Journal, what: str, count: int) -> Hint:
        name = journal.migration
        app, migration = _key(name)
        places = [each.position for each in journal.entries()]
        first, done = min(places), max(places)
        manage = "python manage.py"
        if journal.recorded:
            return Hint(
                f"{name} is half undone, and its file was changed: {what} is undone, and is not "
                "the same any more. Restore the file. Or look at the database, and then apply the "
                f"operations from number {first} on as they are now (the first command), or go on "
                "after all of them (the second):",
                f"{manage} safe_migrate{self.where} --resume {name}:{first}",
                f"{manage} safe_migrate{self.where} --resume {name}:{count + 1}",
            )
        return Hint(
            f"{name} is half done, and its file was changed: {what} is finished, and is not the "
            "same any more. Restore the file. Or look at the database, and then run the whole "
            "migration again (the first command), go on with another operation (the second), or "
            "record the migration as done (the third):",
            f"{manage} safe_migrate{self.where} --rerun {name}",
            f"{manage} safe_migrate{self.where} --resume {name}:{done + 1}",
            f"{manage} migrate{self.where} --fake {app} {migration}",
        )

    def refuse_whole(self, name: str) -> UnfinishedMigration:
        """Return the error for a half-done migration that would run as one transaction now."""
        app, migration = _key(name)
        return UnfinishedMigration(
            Hint(
                f"{name} is half done, and would run as one transaction now, which would do again "
                "what is done. Give it `atomic = False`, as before. Or look at the database, and "
                "then run the whole migration again (the first command), or record it as done "
                "(the second):",
                f"python manage.py safe_migrate{self.where} --rerun {name}",
                f"python manage.py migrate{self.where} --fake {app} {migration}",
            ),
            failed_migration=name,
        )


def _key(name: str) -> Key:
    app, _, migration = name.partition(".")
    return app, migration


def _targets(executor: MigrationExecutor, target: Target) -> list[Any]:
    """Return the nodes of the target as Django's `migrate` finds them; (app, None) for zero."""
    app, name = target
    if name == "zero":
        return [(app, None)]
    if not name:
        return [key for key in executor.loader.graph.leaf_nodes() if key[0] == app]
    found = executor.loader.get_migration_by_prefix(app, name)
    return [(found.app_label, found.name)]


def _require_reversible(
    migration: Migration, journal: Journal, operations: list[Operation]
) -> None:
    """Raise Django's `IrreversibleError` if a finished operation cannot be undone."""
    for number, operation in enumerate(operations, 1):
        is_touched = any(each.position == number for each in journal.entries())
        if is_touched and not operation.reversible:
            raise IrreversibleError(
                f"Operation {number} of {migration} ({name_operation(operation)}) is finished, "
                "and is not reversible. Nothing was undone"
            )
