"""Refuse names of schemas that no tenant has."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from django_safe_init.backends.tenants import Tenancy
from django_safe_init.core.text import name_some
from django_safe_init.exceptions import ConfigurationError


def unknown_schemas(alias: str, names: Sequence[str]) -> ConfigurationError:
    """Return the error for names of schemas that no tenant has."""
    return ConfigurationError(
        f"No tenant of {alias!r} has the schema {name_some(names)}. List the schemas with "
        "`manage.py safe_init_status --schemas`."
    )


def check_schemas(tenancy: Tenancy, names: Collection[str]) -> None:
    """Raise `ConfigurationError` if no tenant has one of the schemas. Reads the tenants."""
    unknown = set(names) - {tenant.schema for tenant in tenancy.static_tenants}
    unknown.discard(tenancy.shared_schema)
    if unknown and tenancy.tenants is not None:
        name = tenancy.fields[0]
        found = tenancy.tenants.using(tenancy.alias).filter(**{f"{name}__in": unknown})
        unknown.difference_update(found.values_list(name, flat=True))
    if unknown:
        raise unknown_schemas(tenancy.alias, sorted(unknown))
