"""Describe the findings of validation: their kinds, severities and repairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from django.db import DEFAULT_DB_ALIAS

from django_safe_init.core.text import with_commands

LEVELS = ("error", "warn", "off")


class FindingKind(str, Enum):
    """A way in which a database differs from the build. The value is the kind in JSON."""

    #: A migration of this build is not recorded, so the tables cannot be compared.
    UNAPPLIED_MIGRATION = "unapplied_migration"
    #: The table of a model does not exist.
    MISSING_TABLE = "missing_table"
    #: A table has no column for a field of its model.
    MISSING_COLUMN = "missing_column"
    #: No index or constraint enforces a uniqueness that a model declares.
    MISSING_UNIQUE = "missing_unique"
    #: No index serves the queries for which a model declares one.
    MISSING_INDEX = "missing_index"
    #: No constraint enforces a foreign key of a model.
    MISSING_FOREIGN_KEY = "missing_foreign_key"
    #: The database server updates an index and never uses it: its creation was interrupted.
    INVALID_INDEX = "invalid_index"
    #: A constraint is NOT VALID, so older rows may violate it.
    NOT_VALID_CONSTRAINT = "not_valid_constraint"

    __str__ = str.__str__


#: The defaults of the setting `VALIDATE`. An unapplied migration is always an error.
DEFAULT_LEVELS: Mapping[str, str] = {
    FindingKind.MISSING_TABLE.value: "error",
    FindingKind.MISSING_COLUMN.value: "error",
    FindingKind.MISSING_UNIQUE.value: "warn",
    FindingKind.MISSING_INDEX.value: "warn",
    FindingKind.MISSING_FOREIGN_KEY.value: "warn",
    FindingKind.INVALID_INDEX.value: "warn",
    FindingKind.NOT_VALID_CONSTRAINT.value: "warn",
}


def management_command_line(command: str, alias: str = DEFAULT_DB_ALIAS) -> str:
    """Return the command line of a management command for a database."""
    option = "" if alias == DEFAULT_DB_ALIAS else f" --database {alias}"
    return f"python manage.py {command}{option}"


def finding_key(kind: str, name: str) -> str:
    """Return the text that stands for a finding in the row of a run."""
    return f"{kind} {name}"


@dataclass(frozen=True)
class Finding:
    """A difference between a database and the build, with its repair."""

    kind: FindingKind
    #: "error" or "warn".
    level: str
    #: The object concerned: a table, `table.column`, an index, a migration.
    object: str
    #: The model that requires the object, as `app.Model`, if any.
    model: str | None
    #: The difference in one sentence.
    message: str
    #: SQL statements or commands that repair it, in order; empty if the repair is manual.
    repair: tuple[str, ...] = ()
    #: True if `safe_init_validate --repair` may run the repair. No part of the JSON.
    automatic: bool = False

    def __str__(self) -> str:
        if not self.repair:
            return self.message
        return with_commands(f"{self.message} Repair it:", self.repair)

    @property
    def key(self) -> str:
        """Return the text that stands for the finding in the row of a run."""
        return finding_key(self.kind, self.object)

    @property
    def is_error(self) -> bool:
        """Return True if the finding fails a run."""
        return self.level == "error"

    def as_json(self) -> dict[str, Any]:
        """Return the finding as a dict for JSON."""
        values = {**asdict(self), "kind": self.kind.value, "repair": list(self.repair)}
        del values["automatic"]
        return values
