"""Know the schemas of a project with django-pgschemas.

https://django-pgschemas.readthedocs.io/
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from django.conf import settings
from django.core.management import BaseCommand
from django.core.management.commands.migrate import Command as DjangoMigrate
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import QuerySet
from django.http import HttpRequest

from django_safe_init.backends.tenants.tenancy import Selection, Tenancy, Tenant

#: The entries of `TENANTS` that are no tenant's schema.
_NO_TENANTS = ("public", "default")
_SHARED = "public"
_MIDDLEWARE = "django_pgschemas.routing.middleware."
_OPTIONS = (
    "schemas",
    "excluded_schemas",
    "all_schemas",
    "static_schemas",
    "dynamic_schemas",
    "tenant_schemas",
)


def get_tenancy(alias: str) -> Tenancy | None:
    """Return the tenancy of the database, if django-pgschemas uses it."""
    from django_pgschemas.utils import get_tenant_database_alias

    return DjangoPgschemas(alias) if alias == get_tenant_database_alias() else None


def _settings() -> Mapping[str, Any]:
    values: Any = settings
    tenants: Mapping[str, Any] = values.TENANTS
    return tenants


class DjangoPgschemas(Tenancy):
    """The schemas of django-pgschemas: static tenants of the settings, and rows of a model."""

    package = "django-pgschemas"
    command = "migrateschema"
    creates_schemas = True

    def __init__(self, alias: str) -> None:
        super().__init__(alias, _SHARED)

    def search_path(self, schema: str) -> list[str]:
        from django_pgschemas.settings import get_extra_search_paths

        return [*dict.fromkeys([schema, _SHARED, *get_extra_search_paths()])]

    @property
    def static_tenants(self) -> tuple[Tenant, ...]:
        from django_pgschemas.utils import get_clone_reference

        names = [name for name in _settings() if name not in _NO_TENANTS]
        tenants = [Tenant(name, name) for name in names]
        if reference := get_clone_reference():
            tenants.append(Tenant(reference))  # it has the apps of dynamic tenants
        return tuple(tenants)

    @property
    def tenants(self) -> QuerySet[Any] | None:
        from django_pgschemas.utils import get_tenant_model

        model: Any = get_tenant_model()
        if model is None:
            return None
        found: QuerySet[Any] = model.objects.all()
        return found

    @property
    def fields(self) -> tuple[str, ...]:
        return ("schema_name",)

    @contextmanager
    def active(self, connection: BaseDatabaseWrapper, tenant: Tenant) -> Iterator[None]:
        from django_pgschemas.schema import Schema

        with Schema.create(schema_name=tenant.schema):
            yield

    def active_schema(self, connection: BaseDatabaseWrapper) -> str:
        from django_pgschemas.schema import get_current_schema

        return str(get_current_schema().schema_name)

    def forget_path(self, connection: BaseDatabaseWrapper) -> None:
        wrapper: Any = connection
        wrapper._search_path = None  # see PGSCHEMAS_LIMIT_SET_CALLS

    def names_schemas(self, options: Mapping[str, Any]) -> bool:
        return bool(options.get("schemas"))

    def selection(self, options: Mapping[str, Any]) -> Selection:
        from django_pgschemas.management.commands import WrappedSchemaOption

        given = {name: options.get(name) for name in _OPTIONS}
        if not any(given.values()) or (
            given["all_schemas"] and not given["excluded_schemas"]
        ):
            return Selection()

        finder = WrappedSchemaOption()
        finder.allow_interactive = False
        # It also makes the schemas that are missing; without this, only names are found.
        found = finder.get_schemas_from_options(**given, skip_schema_creation=True)
        names = tuple(name for name in found if name != _SHARED)
        return Selection(_SHARED in found, names)

    def jobs(self, options: Mapping[str, Any]) -> int:
        if not options.get("parallel"):
            return 1
        limit = getattr(settings, "PGSCHEMAS_PARALLEL_MAX_PROCESSES", None)
        return int(limit or os.cpu_count() or 1)

    def kind_of(self, schema: str) -> str:
        return dict(self.static_tenants).get(schema, "")

    def base_migrate(self) -> type[BaseCommand]:
        return DjangoMigrate

    def schema_of(self, request: HttpRequest) -> str | None:
        tenant = getattr(request, "tenant", None)
        return None if tenant is None else str(tenant.schema_name)

    def _host_of(self, request: HttpRequest) -> str:
        from django_pgschemas.utils import remove_www

        return str(remove_www(request.get_host().split(":")[0]))

    @property
    def hosts(self) -> QuerySet[Any] | None:
        from django_pgschemas.utils import get_domain_model

        model: Any = get_domain_model()
        if model is None or not _finds_by_host():
            return None
        # A host with folders has several tenants.
        divided = model.objects.exclude(folder="").values("domain")
        domains: QuerySet[Any] = model.objects.exclude(domain__in=divided)
        return domains.values_list("domain", "tenant__schema_name")

    @property
    def static_hosts(self) -> Mapping[str, str]:
        if not _finds_by_host():
            return {}
        return {
            host: name
            for name, values in _settings().items()
            if name not in _NO_TENANTS
            for host in values.get("DOMAINS", ())
        }


def _finds_by_host() -> bool:
    """Return True if the host tells the tenant, and nothing that comes after it."""
    names = {
        name.removeprefix(_MIDDLEWARE)
        for name in settings.MIDDLEWARE
        if name.startswith(_MIDDLEWARE)
    }
    return names == {"DomainRoutingMiddleware"}
