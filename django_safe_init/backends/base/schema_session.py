"""Define the session of a run in one tenant's schema."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

from django.db.backends.base.base import BaseDatabaseWrapper

from django_safe_init.backends.base.run_session import RunSession
from django_safe_init.backends.base.transaction import Names
from django_safe_init.core.schemas import FoundSchema


class ReceiverRows(NamedTuple):
    """The rows that Django's own receivers of `post_migrate` create in a schema."""

    #: The app label and the name of each model.
    content_types: tuple[tuple[str, str], ...] = ()
    #: The app label, the model, the codename and the name of each permission.
    permissions: tuple[tuple[str, str, str, str], ...] = ()


class Replay(NamedTuple):
    """A migration whose SQL is known."""

    migration: str
    statements: Sequence[str]
    #: The names under which it is recorded.
    names: Collection[tuple[str, str]]


class SchemaResult(NamedTuple):
    """The end of a run in one schema."""

    schema: str
    #: The error, in one line; None if the schema is up to date.
    error: str | None = None
    #: The migration that failed.
    migration: str | None = None
    seconds: float = 0.0
    #: The number of migrations that were applied.
    applied: int = 0
    #: A digest of the rows that receivers have created.
    receivers: str = ""
    #: True if another session holds the schema's key. Nothing was done.
    is_busy: bool = False
    #: True if the schema does not exist any more.
    is_missing: bool = False
    traceback: str | None = None


class SchemaChanged(Exception):
    """Another program, which does not take the key of the schema, has recorded a migration."""


class BaseSchemaSession(RunSession):
    """A session for the schema of one tenant, on a connection of the run.

    Its reader and its recorder know the interrupted migrations of this schema only.
    """

    schema: str
    connection: BaseDatabaseWrapper
    #: True if the schema existed when its key was taken.
    is_present: bool
    #: True once code, or SQL of the project, has run that may have changed the connection.
    ran_code = False

    @abstractmethod
    def try_lock(self) -> bool:
        """Take the schema's key, and return False if another session holds it.

        The migrating connection holds the key, so that no statement of it outlives the key.
        """

    @abstractmethod
    def unlock(self) -> None:
        """Release the schema's key."""

    @abstractmethod
    def current_schema(self) -> str | None:
        """Return the schema that names without a schema mean now; None for no schema."""

    @abstractmethod
    def may_collide(self, error: BaseException) -> bool:
        """Return True if another worker may have created the same object at the same time.

        Another attempt then finds the object.
        """

    @abstractmethod
    def was_refused(self, error: BaseException) -> bool:
        """Return True if the server may have refused a whole message for a part of it."""

    @abstractmethod
    def recover(self) -> None:
        """Forget a connection that was lost. Raises `LockLost` if this process does not lead."""

    @abstractmethod
    def exists(self) -> bool:
        """Return True if the schema exists."""

    @abstractmethod
    def refresh(self) -> None:
        """Read again if the schema and its table of migrations exist."""

    @abstractmethod
    def create(self) -> None:
        """Create the schema, whose key this session holds."""

    @abstractmethod
    def recorded(self) -> Names | None:
        """Return the migrations that are recorded in the schema; None without a table of them.

        Waits for a lock no longer than `lock_timeout`, and then raises a database error.
        """

    @abstractmethod
    def replay(self, migrations: Sequence[Replay]) -> None:
        """Execute and record the migrations in turn, each in a transaction of its own.

        After an error, those before the failed one are recorded. Raises `LockLost` if this
        process does not lead, `SchemaChanged` if a name is recorded already, and Django's database
        errors.
        """

    @abstractmethod
    def create_table(self, statements: Sequence[str]) -> None:
        """Create the schema's table of migrations."""

    @abstractmethod
    def forget_unfinished(self) -> None:
        """Delete what says that a migration is unfinished in the schema."""

    @abstractmethod
    def create_rows(self, rows: ReceiverRows) -> None:
        """Create the content types and permissions that the schema lacks."""

    @abstractmethod
    def finish(self, result: SchemaResult) -> None:
        """Write the result into the schema's row of the run."""


class BaseSchemaWorker:
    """A connection of the run that migrates one schema after another."""

    connection: BaseDatabaseWrapper

    @abstractmethod
    def connections(self) -> AbstractContextManager[BaseDatabaseWrapper]:
        """Return a context manager that gives the alias the connections of the run."""

    @abstractmethod
    def open(self, schema: str, kind: str) -> BaseSchemaSession:
        """Return the session for a schema, inside `connections`."""

    @abstractmethod
    def close(self) -> None:
        """Close what the worker has opened itself."""


class BaseSchemas:
    """The tenants' schemas of a database, as the leader of a run knows them."""

    @abstractmethod
    def stale(self, receivers: str | None = None) -> list[FoundSchema]:
        """Return the schemas that no row calls up to date for this build, with one query.

        `receivers` is the digest of the rows that `post_migrate` creates; None for any.
        """

    @abstractmethod
    def known(self) -> int:
        """Return the number of schemas that earlier runs have finished."""

    @abstractmethod
    def all(self) -> list[FoundSchema]:
        """Return all schemas of tenants."""

    @abstractmethod
    def complete(self, found: Sequence[FoundSchema]) -> set[str]:
        """Return the schemas in which all migrations of the build are recorded."""

    @abstractmethod
    def remember(self, found: Sequence[FoundSchema], receivers: str | None) -> None:
        """Write rows that call the schemas up to date."""

    @abstractmethod
    def records(self, schema: str) -> Names:
        """Return the migrations that are recorded in the schema."""

    @abstractmethod
    def failed(self) -> set[str]:
        """Return the schemas in which the last attempt failed."""

    @abstractmethod
    def unfinished(self) -> set[str]:
        """Return the schemas in which a non-atomic migration was interrupted."""

    @abstractmethod
    def prune(self) -> None:
        """Delete the rows that nothing needs any more."""

    @abstractmethod
    def plan(self, found: Sequence[FoundSchema]) -> None:
        """Write a row for each schema of the run, as pending."""

    @abstractmethod
    def record_failure(self, result: SchemaResult) -> None:
        """Write a step of the run for the migration that failed in a schema."""

    @abstractmethod
    def note(self, result: SchemaResult) -> None:
        """Write a failure that no worker has written into the schema's row of the run."""

    @abstractmethod
    def max_workers(self) -> int | None:
        """Return how many forked workers get their connections now; None without a limit."""

    @abstractmethod
    def worker(self, *, forked: bool) -> BaseSchemaWorker:
        """Return a worker of the run: with sessions of its own in a forked process."""
