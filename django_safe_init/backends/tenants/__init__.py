"""Know the packages that keep one schema for each tenant: their tenants, schemas and settings.

A project is tenanted if django-tenants or django-pgschemas is installed. All other rooms ask
`get_tenancy` for the `Tenancy` of an alias, and know neither package. This room may import both
packages, builds queries of the project's tenant model, and executes none.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from django.apps import apps
from django.db import connections

from django_safe_init.backends.tenants.tenancy import Tenancy, Tenant

__all__ = ["PACKAGES", "Tenancy", "Tenant", "get_tenancy", "is_tenanted"]

#: The module of each package's `Tenancy`, by the name of the package's app.
PACKAGES = {
    "django_tenants": "django_safe_init.backends.tenants.django_tenants",
    "django_pgschemas": "django_safe_init.backends.tenants.django_pgschemas",
}
#: With these, a project runs its tests without its tenants.
_ENGINES_WITHOUT_SCHEMAS = {
    f"django.db.backends.{name}" for name in ("dummy", "mysql", "oracle", "sqlite3")
}


def get_tenancy(alias: str) -> Tenancy | None:
    """Return the tenancy of the database; None for a database without tenants' schemas."""
    if connections.settings.get(alias, {}).get("ENGINE") in _ENGINES_WITHOUT_SCHEMAS:
        return None
    for app, module in PACKAGES.items():
        if apps.is_installed(app):
            make: Callable[[str], Tenancy | None] = import_module(module).get_tenancy
            return make(alias)
    return None


def is_tenanted() -> bool:
    """Return True if a package with a schema for each tenant is installed."""
    return any(map(apps.is_installed, PACKAGES))
