"""Define what this package needs to know of a package with one schema for each tenant."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from django.core.exceptions import DisallowedHost
from django.core.management import BaseCommand
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import QuerySet
from django.http import HttpRequest


class Tenant(NamedTuple):
    """A tenant's schema."""

    schema: str
    #: Tenants of one kind have the same apps. Empty in a package with one kind.
    kind: str = ""


class Selection(NamedTuple):
    """The schemas that a `migrate` command names."""

    #: True if the shared schema is among them.
    shared: bool = True
    #: The tenants' schemas; None for all tenants.
    schemas: tuple[str, ...] | None = None

    @property
    def is_whole(self) -> bool:
        """True for all schemas of the database."""
        return self.shared and self.schemas is None


class Tenancy(ABC):
    """The shared schema and the tenants of one database. Opens no connection."""

    #: The name of the package.
    package: str
    #: The package's own command that migrates schemas.
    command: str
    #: True if that command creates the schemas that are missing.
    creates_schemas = False

    def __init__(self, alias: str, shared_schema: str) -> None:
        self.alias = alias
        self.shared_schema = shared_schema

    @abstractmethod
    def search_path(self, schema: str) -> list[str]:
        """Return the schemas of the search path while the schema is active, not quoted."""

    @property
    @abstractmethod
    def static_tenants(self) -> tuple[Tenant, ...]:
        """Return the tenants that the settings name."""

    @property
    @abstractmethod
    def tenants(self) -> QuerySet[Any] | None:
        """Return the query for the tenants of the database; None if the project has no model.

        Its table is in the shared schema.
        """

    @property
    @abstractmethod
    def fields(self) -> tuple[str, ...]:
        """Return the fields of a `Tenant` in the model: the schema's name, and the kind's."""

    @property
    def default_order(self) -> Sequence[str]:
        """Return the fields of the tenant model by which the package orders its migrations."""
        return ()

    @abstractmethod
    def active(
        self, connection: BaseDatabaseWrapper, tenant: Tenant
    ) -> AbstractContextManager[None]:
        """Return a context manager in which the connection uses the schema of the tenant.

        Afterwards the schema that was active before is active again.
        """

    @abstractmethod
    def active_schema(self, connection: BaseDatabaseWrapper) -> str:
        """Return the schema that the connection uses."""

    @abstractmethod
    def forget_path(self, connection: BaseDatabaseWrapper) -> None:
        """Let the next cursor set the search path, also if the package keeps count of it."""

    @abstractmethod
    def names_schemas(self, options: Mapping[str, Any]) -> bool:
        """Return True if the options name single schemas."""

    @abstractmethod
    def selection(self, options: Mapping[str, Any]) -> Selection:
        """Return the schemas that the options of the package's command name.

        May read the tenants. Raises Django's `CommandError` for options that exclude each other.
        """

    def jobs(self, options: Mapping[str, Any]) -> int:
        """Return the number of processes that the options and settings of the package ask for."""
        return 1

    @property
    def fakes_clones(self) -> bool:
        """True if the package fakes the migrations of a new schema that it has cloned."""
        return False

    @abstractmethod
    def kind_of(self, schema: str) -> str:
        """Return the kind of the tenant with this schema. May read it from the database."""

    @abstractmethod
    def base_migrate(self) -> type[BaseCommand]:
        """Return the `migrate` that the package runs in each schema."""

    def before_migrate(self, schema: str) -> None:  # noqa: B027  (not every package has one)
        """Send the package's signal before the migrations of a schema."""

    def after_migrate(self, schema: str) -> None:  # noqa: B027
        """Send the package's signal after the migrations of a schema."""

    @abstractmethod
    def schema_of(self, request: HttpRequest) -> str | None:
        """Return the schema that the package's middleware has found for the request, or None."""

    def host_of(self, request: HttpRequest) -> str | None:
        """Return the host name of the request as `hosts` has it; None if Django refuses it."""
        try:
            return self._host_of(request)
        except DisallowedHost:
            return None

    @abstractmethod
    def _host_of(self, request: HttpRequest) -> str:
        """Return the host name by the package's own rule. Raises Django's `DisallowedHost`."""

    @property
    def hosts(self) -> QuerySet[Any] | None:
        """Return the query for host names and their schemas, if only the host tells the tenant.

        None if the project finds tenants in another way. Names in `static_hosts` come first.
        """
        return None

    @property
    def static_hosts(self) -> Mapping[str, str]:
        """Return the schemas of the host names in the settings."""
        return {}
