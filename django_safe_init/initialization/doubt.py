"""Decide about the one operation whose work began outside of a transaction, and may have ended.

An index that is built or dropped concurrently can be found, and so can its leftovers. For any
other operation a person, the setting `UNFINISHED` or the migration's class decides.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations import Migration

from django_safe_init.backends.base.run_session import RunSession
from django_safe_init.core.records import EntryState, JournalEntry
from django_safe_init.core.text import Hint
from django_safe_init.exceptions import ConfigurationError, UnfinishedMigration
from django_safe_init.initialization.journal import Journal

logger = logging.getLogger("django_safe_init")

POLICIES = ("rerun", "report")


def policy_of(migration: Migration, default: str) -> str:
    """Return the policy of the migration's class, or the default.

    Raises `ConfigurationError` for an unknown value.
    """
    policy = getattr(migration, "safe_init_unfinished", default)
    if policy not in POLICIES:
        raise ConfigurationError(
            f"{migration.app_label}.{migration.name} has safe_init_unfinished = {policy!r}. "
            "Use 'rerun' or 'report'."
        )
    return str(policy)


@dataclass(frozen=True)
class Doubt:
    """An entry in doubt, and the direction of the run that has to decide about it."""

    session: RunSession
    connection: BaseDatabaseWrapper
    migration: Migration
    journal: Journal
    entry: JournalEntry
    #: The number of operations of the migration.
    total: int
    backwards: bool
    policy: str
    #: The option that names the database in a command.
    where: str

    def resolve(self) -> None:
        """Make the entry certain. Raises `UnfinishedMigration` when a person has to decide."""
        detail = self.entry.detail or {}
        if detail.get("index") is not None:
            done = self._clean_up_index(
                detail["index"], detail["action"], detail["before"] or []
            )
            self.journal.settle((self.entry.position, self.entry.part), done=done)
        elif detail.get("repeatable"):
            pass  # the entry stays in doubt until the work ends, in either direction
        elif self.policy == "rerun":
            logger.warning(
                "%s was interrupted: it %s.",
                self._title,
                "runs again" if self._goes_on else "is undone",
            )
        else:
            raise UnfinishedMigration(self._hint(), failed_migration=self._name)

    @property
    def _goes_on(self) -> bool:
        """True if the run has the direction of the work that was interrupted."""
        was_undoing = self.entry.state is EntryState.UNDOING
        was_backwards = self.journal.recorded is not was_undoing
        return was_backwards is self.backwards

    def _clean_up_index(self, name: str, action: str, before: list[str]) -> bool:
        """Drop what the work has left behind, and return True if it had ended.

        `before` names the invalid copies that were there before; it starts with an empty text
        if the index was there.
        """
        condition = self.session.index_condition(self.connection, name)
        for leftover in condition.leftovers:
            if leftover not in before:
                self._drop(leftover)
        if action == "DROP":
            if condition.exists and not condition.is_valid:
                self._drop(name)
            return not condition.is_valid
        if action == "REINDEX" or not condition.exists or "" in before:
            return False
        if not condition.is_valid:
            self._drop(name)
        return condition.is_valid

    def _drop(self, index: str) -> None:
        logger.warning(
            "Dropping the index %s, left behind by an interrupted migration.", index
        )
        self.session.drop_leftover(self.connection, index)

    @property
    def _name(self) -> str:
        return f"{self.migration.app_label}.{self.migration.name}"

    @property
    def _title(self) -> str:
        name = (self.entry.detail or {}).get("name", "")
        part = f", statement {self.entry.part}," if self.entry.part else ""
        return f"Operation {self.entry.position} of {self.total} ({name}){part} of {self._name}"

    def _hint(self) -> str:
        """Return the commands to choose from."""
        place, part = self.entry.position, self.entry.part
        safe = f"python manage.py safe_migrate{self.where}"
        if self.journal.recorded:
            return Hint(
                f"{self._title} was being undone, so what is left of it is unknown. Look at the "
                "database. If the operation is still applied, apply those behind it again (the "
                "first command); if it is undone, apply it again, too (the second):",
                f"{safe} --resume {self._name}:{place + 1}",
                f"{safe} --resume {self._name}:{place}",
            )
        here, after = (
            (f"{place}.{part}", f"{place}.{part + 1}") if part else (place, place + 1)
        )
        app, name = self.migration.app_label, self.migration.name
        return Hint(
            f"{self._title} was interrupted, so what it has done is unknown. Look at the "
            "database. Then do it again (the first command), go on after it (the second), run "
            "the whole migration again (the third), or record it as done (the fourth):",
            f"{safe} --resume {self._name}:{here}",
            f"{safe} --resume {self._name}:{after}",
            f"{safe} --rerun {self._name}",
            f"python manage.py migrate{self.where} --fake {app} {name}",
        )
