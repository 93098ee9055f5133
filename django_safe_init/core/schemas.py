"""Hold the values that describe the tenants' schemas of a database.

A tenant's schema is up to date by sets of names, like a database: every migration that the build
defines is recorded in the schema's own `django_migrations`. Rows of earlier runs only save the
time to read that table. A row tells which table was read (by its oid and file), and how many
rows had been inserted, updated and deleted in it. As long as that is the same, so is the set.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from enum import Enum
from hashlib import blake2b
from typing import Any, NamedTuple

from django_safe_init.core.text import name_some

#: The table with the rows of the schemas.
SCHEMA_TABLE = "django_safe_init_schema"
#: The kind of a step that tells which migration failed in a tenant's schema.
SCHEMA_STEP = "schema"


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
        """Return the JSON object of a status. It names no schema."""
        return {**self._asdict(), "pending": self.pending, "behind": self.behind}

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
    #: The moment since which the server counts. After a crash, or a reset, it begins again.
    counted_since: str = ""


class FoundSchema(NamedTuple):
    """A tenant's schema that no row calls up to date."""

    schema: str
    kind: str
    exists: bool
    identity: SchemaIdentity
    #: True if a run creates the schema that is missing.
    can_create: bool = False

    @property
    def is_due(self) -> bool:
        """True if a run migrates the schema, and creates it before if need be."""
        return self.exists or self.can_create


class SchemaFailure(NamedTuple):
    """A tenant's schema whose last attempt in this build has failed."""

    schema: str
    error: str


class FailedSchemas(NamedTuple):
    """The failed schemas of a database: how many, and the first of them by name."""

    number: int = 0
    first: tuple[SchemaFailure, ...] = ()


NONE_FAILED = FailedSchemas()


class SchemaSummary(NamedTuple):
    """The tenants' schemas of a database at one moment."""

    total: int
    #: The schemas that lack a migration of the build, sorted.
    behind: tuple[str, ...] = ()
    #: Those among them that a run of the build has tried in vain.
    failed: FailedSchemas = NONE_FAILED

    @property
    def done(self) -> int:
        """The number of schemas that are up to date."""
        return max(0, self.total - len(self.behind))

    @property
    def progress(self) -> SchemaProgress:
        """The numbers, without a name."""
        return SchemaProgress(self.total, self.done, self.failed.number)

    @property
    def sentence(self) -> str:
        """The number of schemas that are behind, with the first names; empty if none is."""
        if not self.behind:
            return ""
        lack = "lacks" if len(self.behind) == 1 else "lack"
        return (
            f"{len(self.behind):,} of {self.total:,} tenants' schemas {lack} migrations: "
            f"{name_some(self.behind)}"
        )


class TenantState(str, Enum):
    """The state of a tenant's schema for this build."""

    UP_TO_DATE = "up_to_date"
    BEHIND = "behind"
    #: Behind, and the last attempt failed.
    FAILED = "failed"
    #: The tenant has a row, and its schema does not exist.
    MISSING = "missing"

    @property
    def label(self) -> str:
        """The state in words."""
        return self.value.replace("_", " ")


class TenantStatus(NamedTuple):
    """The status of one tenant's schema for this build."""

    schema: str
    state: TenantState
    #: The newest run that has finished with it; None if no run is known.
    run: int | None = None
    seconds: float | None = None
    error: str | None = None
    #: The migrations that it lacks; None if they were not read.
    pending: tuple[str, ...] | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object of a status; without `pending` if that was not read."""
        values = {**self._asdict(), "state": self.state.value}
        if self.pending is None:
            del values["pending"]
        else:
            values["pending"] = list(self.pending)
        return values


class BlockedTenants(NamedTuple):
    """The tenants whose requests have to wait, although the shared schema is done."""

    schemas: frozenset[str] = frozenset()
    #: The schemas of the host names that tell the tenant, where hosts tell it.
    hosts: Mapping[str, str] = {}

    def without_others(self, known: BlockedTenants) -> BlockedTenants:
        """Return the tenants that were known before: one that was created later never waits."""
        return BlockedTenants(
            self.schemas & known.schemas,
            {host: name for host, name in self.hosts.items() if name in known.schemas},
        )


NONE_BLOCKED = BlockedTenants()


def digest(names: Iterable[str]) -> str:
    """Return a digest of a set of names."""
    text = "\n".join(sorted(names))
    return blake2b(text.encode(), digest_size=12).hexdigest()
