"""Know the schemas of a project with django-tenants.

https://django-tenants.readthedocs.io/
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from django.conf import settings
from django.core.management import BaseCommand, CommandError
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import QuerySet
from django.http import HttpRequest

from django_safe_init.backends.tenants.tenancy import Selection, Tenancy, Tenant


def get_tenancy(alias: str) -> Tenancy | None:
    """Return the tenancy of the database, if django-tenants uses it."""
    from django_tenants.utils import get_tenant_database_alias

    return DjangoTenants(alias) if alias == get_tenant_database_alias() else None


class DjangoTenants(Tenancy):
    """The schemas of django-tenants: all tenants are rows, of one type or of several."""

    package = "django-tenants"
    command = "migrate_schemas"

    def __init__(self, alias: str) -> None:
        from django_tenants.utils import get_public_schema_name

        super().__init__(alias, get_public_schema_name())

    def search_path(self, schema: str) -> list[str]:
        extra = getattr(settings, "PG_EXTRA_SEARCH_PATHS", [])
        return [*dict.fromkeys([schema, self.shared_schema, *extra])]

    @property
    def static_tenants(self) -> tuple[Tenant, ...]:
        return ()

    @property
    def tenants(self) -> QuerySet[Any] | None:
        from django_tenants.utils import get_tenant_model

        model = get_tenant_model()
        found: QuerySet[Any] = model.objects.exclude(schema_name=self.shared_schema)
        return found

    @property
    def fields(self) -> tuple[str, ...]:
        from django_tenants.utils import (
            get_multi_type_database_field_name,
            has_multi_type_tenants,
        )

        if has_multi_type_tenants():
            return ("schema_name", get_multi_type_database_field_name())
        return ("schema_name",)

    @property
    def default_order(self) -> Sequence[str]:
        from django_tenants.utils import get_tenant_migration_order

        return get_tenant_migration_order() or ()

    @contextmanager
    def active(self, connection: BaseDatabaseWrapper, tenant: Tenant) -> Iterator[None]:
        wrapper: Any = connection  # of the package's class
        before, with_public = wrapper.tenant, wrapper.include_public_schema
        wrapper.set_schema(tenant.schema, tenant_type=tenant.kind)
        try:
            yield
        finally:
            wrapper.set_tenant(before, include_public=with_public)

    def active_schema(self, connection: BaseDatabaseWrapper) -> str:
        wrapper: Any = connection
        return str(wrapper.schema_name)

    def forget_path(self, connection: BaseDatabaseWrapper) -> None:
        wrapper: Any = connection
        wrapper.search_path_set_schemas = None  # see TENANT_LIMIT_SET_CALLS

    def names_schemas(self, options: Mapping[str, Any]) -> bool:
        return bool(options.get("schema_name"))

    def selection(self, options: Mapping[str, Any]) -> Selection:
        schema, shared = options.get("schema_name"), bool(options.get("shared"))
        tenants = bool(options.get("tenant"))
        if schema:
            if shared:
                raise CommandError(
                    "schema should only be used with the --tenant switch."
                )
            is_shared = schema == self.shared_schema
            return Selection(is_shared, () if is_shared else (schema,))
        if shared == tenants:
            return Selection()
        return Selection(shared, () if shared else None)

    def jobs(self, options: Mapping[str, Any]) -> int:
        executor = options.get("executor") or os.environ.get("EXECUTOR", "standard")
        if executor == "multiprocessing":
            return int(getattr(settings, "TENANT_MULTIPROCESSING_MAX_PROCESSES", 2))
        if executor == "subprocess":
            default = getattr(settings, "TENANT_SUBPROCESS_PARALLEL", 1)
            return max(1, int(options.get("parallel") or default))
        return 1

    def kind_of(self, schema: str) -> str:
        if len(self.fields) == 1 or self.tenants is None:
            return ""
        found = self.tenants.using(self.alias).filter(schema_name=schema)
        return str(found.values_list(self.fields[1], flat=True).first() or "")

    @property
    def fakes_clones(self) -> bool:
        from django_tenants.utils import get_creation_fakes_migrations

        return bool(get_creation_fakes_migrations())

    def base_migrate(self) -> type[BaseCommand]:
        from django_tenants.utils import get_tenant_base_migrate_command_class

        command: type[BaseCommand] = get_tenant_base_migrate_command_class()
        return command

    def before_migrate(self, schema: str) -> None:
        from django_tenants.migration_executors.base import run_migrations
        from django_tenants.signals import schema_pre_migration

        schema_pre_migration.send(run_migrations, schema_name=schema)

    def after_migrate(self, schema: str) -> None:
        from django_tenants.migration_executors.base import run_migrations
        from django_tenants.signals import schema_migrated

        schema_migrated.send(run_migrations, schema_name=schema)

    def schema_of(self, request: HttpRequest) -> str | None:
        tenant = getattr(request, "tenant", None)
        return None if tenant is None else str(tenant.schema_name)

    def _host_of(self, request: HttpRequest) -> str:
        from django_tenants.middleware import TenantMainMiddleware

        return str(TenantMainMiddleware.hostname_from_request(request))

    @property
    def hosts(self) -> QuerySet[Any] | None:
        from django_tenants.middleware import TenantMainMiddleware
        from django_tenants.utils import get_tenant_domain_model

        names = [f"{TenantMainMiddleware.__module__}.TenantMainMiddleware"]
        names.append("django_tenants.middleware.TenantMainMiddleware")
        if not set(names) & set(settings.MIDDLEWARE):
            return None  # a subclass or another middleware may have a rule of its own
        domains: QuerySet[Any] = get_tenant_domain_model().objects.all()
        return domains.values_list("domain", "tenant__schema_name")
