"""What validation can find, and how much each kind of it matters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from django.db import DEFAULT_DB_ALIAS

LEVELS = ("error", "warn", "off")


class FindingKind(str, Enum):
    """A way in which a database is not what a build needs. The value is the word in JSON."""

    #: A migration of this build is not recorded; nothing can be said about its tables.
    UNAPPLIED_MIGRATION = "unapplied_migration"
    #: A model's table is not there.
    MISSING_TABLE = "missing_table"
    #: A table lacks the column of a model's field.
    MISSING_COLUMN = "missing_column"
    #: Nothing keeps unique what a model says is unique.
    MISSING_UNIQUE = "missing_unique"
    #: The server keeps an index up to date and does not use it: its build was interrupted.
    INVALID_INDEX = "invalid_index"
    #: A constraint was left NOT VALID: older rows may break it.
    NOT_VALID_CONSTRAINT = "not_valid_constraint"

    __str__ = str.__str__


#: The setting `VALIDATE`. A database with unapplied migrations is not ready, whatever is set.
DEFAULT_LEVELS: Mapping[str, str] = {
    FindingKind.MISSING_TABLE.value: "error",
    FindingKind.MISSING_COLUMN.value: "error",
    FindingKind.MISSING_UNIQUE.value: "warn",
    FindingKind.INVALID_INDEX.value: "warn",
    FindingKind.NOT_VALID_CONSTRAINT.value: "warn",
}


def management_command_line(command: str, alias: str = DEFAULT_DB_ALIAS) -> str:
    """The command line of a management command for a database."""
    option = "" if alias == DEFAULT_DB_ALIAS else f" --database {alias}"
    return f"python manage.py {command}{option}"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a database."""

    kind: FindingKind
    #: "error" or "warn".
    level: str
    #: What it is about: a table, `table.column`, an index, a migration.
    object: str
    #: The model that needs it, as `app.Model`, if one does.
    model: str | None
    #: What is wrong, in a sentence.
    message: str
    #: SQL statements or commands that put it right, in order; empty where only a person can.
    repair: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.repair:
            return self.message
        return f"{self.message} Repair it: {' '.join(self.repair)}"

    @property
    def is_error(self) -> bool:
        """Whether a run that finds it has failed."""
        return self.level == "error"

    def as_json(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {**asdict(self), "kind": self.kind.value, "repair": list(self.repair)}
