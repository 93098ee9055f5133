"""Hold the values that describe the tenants' schemas of a database.

A tenant's schema is up to date by sets of names, like a database: every migration that the build
defines is recorded in the schema's own `django_migrations`. Rows of earlier runs only save the
time to read that table. A row tells which table was read (by its oid and file), and how many
rows had been inserted, updated and deleted in it. As long as that is the same, so is the set.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from enum import Enum
from hashlib import blake2b
from typing import NamedTuple

#: The table with the rows of the schemas.
SCHEMA_TABLE = "django_safe_init_schema"


class SchemaState(str, Enum):
    """The state of a tenant's schema in a run."""

    PENDING = "pending"
    DONE = "done"
    FAILED = "failed"
    #: The tenant has a row, and its schema does not exist.
    MISSING = "missing"


class SchemaProgress(NamedTuple):
    """The tenants' schemas of a run that brings all of them to its build, by state."""

    total: int
    done: int = 0
    failed: int = 0

    @property
    def pending(self) -> int:
        """The schemas that the run has not finished."""
        return max(0, self.total - self.done - self.failed)

    @property
    def behind(self) -> int:
        """The schemas that are not up to date."""
        return max(0, self.total - self.done)

    def as_json(self) -> dict[str, int]:
        """Return the JSON object of a status."""
        return {**self._asdict(), "pending": self.pending}

    @classmethod
    def from_json(cls, text: object) -> SchemaProgress | None:
        """Return the progress in a run's row, or None; any program may have written it."""
        try:
            numbers = json.loads(str(text))
            total, done, failed = numbers
        except (ValueError, TypeError):
            return None
        if not all(isinstance(each, int) and each >= 0 for each in numbers):
            return None
        return cls(total, done, failed)

    def __str__(self) -> str:
        return f"{self.done:,} of {self.total:,} schemas"


class SchemaIdentity(NamedTuple):
    """The table of migrations of one schema at one moment, without its rows."""

    #: The oid and the file of the table; None without a table.
    table: int | None
    file: int | None
    inserted: int
    updated: int
    deleted: int


class FoundSchema(NamedTuple):
    """A tenant's schema that no row calls up to date."""

    schema: str
    kind: str
    exists: bool
    identity: SchemaIdentity
    #: What an earlier run has stored about it for this or another build.
    receivers: str = ""


class SchemaSummary(NamedTuple):
    """The tenants' schemas of a database at one moment."""

    total: int
    #: The schemas that lack a migration of the build, sorted.
    behind: tuple[str, ...] = ()

    @property
    def done(self) -> int:
        """The number of schemas that are up to date."""
        return max(0, self.total - len(self.behind))


def digest(names: Iterable[str]) -> str:
    """Return a digest of a set of names."""
    text = "\n".join(sorted(names))
    return blake2b(text.encode(), digest_size=12).hexdigest()
