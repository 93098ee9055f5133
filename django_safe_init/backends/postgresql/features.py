"""Define the features of PostgreSQL, which depend on the installed driver."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils.version import get_version_tuple

from django_safe_init.backends.base.features import BackendFeatures

FEATURES = BackendFeatures(
    backend="django_safe_init.backends.postgresql.backend.PostgresBackend",
    has_lock=True,
    supports_privileged_steps=True,
)
#: The oldest psycopg that has the functions which this package uses.
MIN_VERSION = "3.2"
#: Installs a driver that works on every system, also without the library libpq.
REMEDY = f"Run: pip install 'psycopg[binary]>={MIN_VERSION}'"


def get_features(connection: BaseDatabaseWrapper) -> BackendFeatures:
    """Return the features of a database on PostgreSQL.

    Without psycopg 3 they have no lock, and an obstacle.
    """
    driver: Any = connection.Database  # type: ignore[attr-defined]  # every engine has one
    if driver.__name__ != "psycopg":
        return without_driver(f"Django uses {driver.__name__}")
    if get_version_tuple(driver.__version__) < get_version_tuple(MIN_VERSION):
        return without_driver(f"psycopg {driver.__version__} is installed")
    return FEATURES


def without_driver(reason: str) -> BackendFeatures:
    """Return the features of PostgreSQL without a driver that this package can use."""
    return BackendFeatures(
        obstacle=f"{reason}{_import_error()}, and django_safe_init needs psycopg {MIN_VERSION} "
        "or newer.",
        remedy=REMEDY,
    )


@cache
def _import_error() -> str:
    """Return why psycopg cannot be imported, or "" if it can be or is not installed."""
    try:
        import_module("psycopg")
    except ModuleNotFoundError:
        return ""
    except ImportError as exc:  # for example without libpq
        return f" (psycopg cannot be imported: {str(exc).splitlines()[0]})"
    return ""
