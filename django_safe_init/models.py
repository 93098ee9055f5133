"""Models of the status tables, and the only declaration of their columns.

The backends derive the tables from them, and write the rows. Like Django's model of
`django_migrations`, they have a separate app registry: a table belongs to one database and may
be missing in another, so `migrate`, `makemigrations`, `dumpdata`, content types and permissions
must ignore them.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

from django.apps.registry import Apps
from django.db import models

from django_safe_init.core.records import (
    OPERATION_TABLE,
    RUN_TABLE,
    STEP_TABLE,
    run_result,
)
from django_safe_init.core.schemas import SCHEMA_TABLE, SchemaState
from django_safe_init.core.states import State
from django_safe_init.core.text import printable, stored_hint

_registry = Apps()


class PrintableModel(models.Model):
    """A row whose texts are printable, because any program may have written them."""

    class Meta:
        abstract = True

    @classmethod
    def from_db(
        cls,
        db: str | None,
        field_names: Collection[str],
        values: Collection[Any],
        **options: Any,
    ) -> Any:
        """Return the instance of a row that was read."""
        texts = [
            _clean(name, value) for name, value in zip(field_names, values, strict=True)
        ]
        return super().from_db(db, field_names, texts, **options)


def _clean(name: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return stored_hint(value) if name == "error" else printable(value)


class Run(PrintableModel):
    """One initialization of a database by one leader; the id is its epoch."""

    id = models.BigAutoField(primary_key=True)
    lock_key = models.TextField(default="", db_default="")
    build = models.TextField()
    state = models.TextField(choices=[(state.value, state.value) for state in State])
    outcome = models.TextField(null=True)
    done = models.IntegerField(default=0, db_default=0)
    total = models.IntegerField(default=0, db_default=0)
    progress = models.IntegerField(default=0, db_default=0)
    message = models.TextField(default="", db_default="")
    leader = models.TextField()
    backend_pid = models.IntegerField()
    command = models.TextField()
    version = models.TextField()
    started_at = models.DateTimeField()
    heartbeat_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True)
    error = models.TextField(null=True)
    item_done = models.BigIntegerField(null=True)
    item_total = models.BigIntegerField(null=True)
    item_message = models.TextField(null=True)
    #: An `OperationProgress` in JSON.
    operation = models.TextField(null=True)
    #: Only `safe_init_status --run` shows it, because it may quote rows of the project.
    traceback = models.TextField(null=True)
    #: `CHECKS_PASSED`, or the identifiers of the errors that the system checks found.
    checks = models.TextField(null=True)
    release = models.TextField(null=True)
    findings = models.TextField(null=True)
    #: A `SchemaProgress` in JSON, once the shared schema is done.
    schemas = models.TextField(null=True)

    class Meta:
        apps = _registry
        app_label = "django_safe_init"
        managed = False
        db_table = RUN_TABLE

    def __str__(self) -> str:
        return f"run {self.pk}"

    @property
    def result(self) -> str:
        """Return the outcome, or "open" while the run has none."""
        return run_result(self.outcome)

    @property
    def ended_at(self) -> datetime:
        """Return when the run finished, or the leader's last heartbeat if it did not."""
        return self.finished_at or self.heartbeat_at

    @property
    def seconds(self) -> float:
        """Return the seconds from the start of the run to `ended_at`."""
        return seconds_between(self.started_at, self.ended_at)


class Step(PrintableModel):
    """One migration or registered step of a run."""

    id = models.BigAutoField(primary_key=True)
    run = models.ForeignKey(
        Run, models.DO_NOTHING, db_constraint=False, related_name="steps"
    )
    position = models.IntegerField()
    kind = models.TextField()
    name = models.TextField()
    backwards = models.BooleanField(default=False, db_default=False)
    atomic = models.BooleanField(default=True, db_default=True)
    started_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True)
    outcome = models.TextField(null=True)
    detail = models.JSONField(null=True)

    class Meta:
        apps = _registry
        app_label = "django_safe_init"
        managed = False
        db_table = STEP_TABLE
        indexes = [
            models.Index(fields=["run", "position"], name=f"{STEP_TABLE}_run_id")
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def result(self) -> str:
        """Return the outcome, "open", or "unfinished" if the run ended before the step."""
        return self.outcome or ("open" if self.run.outcome is None else "unfinished")

    @property
    def seconds(self) -> float:
        """Return the seconds that the step took.

        A step without an end lasts until its run ended.
        """
        return seconds_between(self.started_at, self.finished_at or self.run.ended_at)


class Operation(models.Model):
    """An entry in the journal of a migration that is half done, see `JournalEntry`."""

    id = models.BigAutoField(primary_key=True)
    lock_key = models.TextField(default="", db_default="")
    migration = models.TextField()
    recorded = models.BooleanField()
    kind = models.TextField()
    position = models.IntegerField()
    part = models.IntegerField()
    state = models.TextField()
    fingerprint = models.TextField()
    #: JSON in ASCII, which every encoding of a database can store.
    detail = models.TextField(null=True)
    run = models.ForeignKey(
        Run, models.DO_NOTHING, db_constraint=False, related_name="operations"
    )
    written_at = models.DateTimeField()

    class Meta:
        apps = _registry
        app_label = "django_safe_init"
        managed = False
        db_table = OPERATION_TABLE
        indexes = [
            models.Index(
                fields=["migration", "position"], name=f"{OPERATION_TABLE}_name"
            )
        ]

    def __str__(self) -> str:
        return f"{self.migration} {self.kind} {self.position}"


class TenantSchema(PrintableModel):
    """A tenant's schema in one run, or as it was found outside of a run."""

    id = models.BigAutoField(primary_key=True)
    lock_key = models.TextField(default="", db_default="")
    run = models.ForeignKey(
        Run,
        models.DO_NOTHING,
        db_constraint=False,
        related_name="tenant_schemas",
        null=True,
    )
    schema = models.TextField()
    state = models.TextField(
        choices=[(state.value, state.value) for state in SchemaState]
    )
    #: True for the newest row that was done: it tells what the schema has.
    is_current = models.BooleanField(default=False, db_default=False)
    #: The build, and digests of its migrations and of the rows of `post_migrate`.
    build = models.TextField(default="", db_default="")
    migrations = models.TextField(default="", db_default="")
    receivers = models.TextField(default="", db_default="")
    #: The fields of a `SchemaIdentity`.
    table_oid = models.BigIntegerField(null=True)
    table_file = models.BigIntegerField(null=True)
    inserted = models.BigIntegerField(null=True)
    updated = models.BigIntegerField(null=True)
    deleted = models.BigIntegerField(null=True)
    counted_since = models.TextField(default="", db_default="")
    #: The migration that failed; or the non-atomic one that was started, with its detail.
    migration = models.TextField(null=True)
    backwards = models.BooleanField(null=True)
    detail = models.JSONField(null=True)
    error = models.TextField(null=True)
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        apps = _registry
        app_label = "django_safe_init"
        managed = False
        db_table = SCHEMA_TABLE
        indexes = [
            models.Index(fields=["run", "schema"], name=f"{SCHEMA_TABLE}_run"),
            models.Index(
                fields=["lock_key", "schema"],
                name=f"{SCHEMA_TABLE}_now",
                condition=models.Q(is_current=True),
            ),
        ]

    def __str__(self) -> str:
        return self.schema

    @property
    def seconds(self) -> float:
        """Return the seconds that the run worked on the schema."""
        return seconds_between(self.started_at, self.finished_at)


def seconds_between(start: datetime | None, end: datetime | None) -> float:
    """Return the seconds from `start` to `end`, at least 0; 0 if one of them is missing."""
    if start is None or end is None:  # not written by this package
        return 0.0
    return max(0.0, (end - start).total_seconds())
