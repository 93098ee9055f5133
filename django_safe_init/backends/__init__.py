"""Find the backend of a database.

`initialization`, `status`, `serving` and `management` know a database engine only through this
package: its features, and the backend class. `base` defines what a backend provides. Each engine
has a folder, found by Django's vendor name, and must not import another engine, `validation`,
`initialization` or `serving`. To add an engine, write its folder and a line in `BACKENDS`.

A backend is imported on first use, so a project on SQLite needs no PostgreSQL driver.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING

from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.utils.module_loading import import_string

from django_safe_init.backends.base.features import BackendFeatures
from django_safe_init.core.text import one_line
from django_safe_init.exceptions import UnsupportedEngine

if TYPE_CHECKING:
    from django_safe_init.backends.base.backend import BaseBackend
    from django_safe_init.backends.base.context import Context
    from django_safe_init.backends.base.run_session import RunSession
    from django_safe_init.backends.base.schema_session import BaseSchemas
    from django_safe_init.backends.tenants import Tenancy
    from django_safe_init.conf import Settings
    from django_safe_init.core.build import Build
    from django_safe_init.core.step import StepDefinition

#: The folder of each engine, by Django's `connection.vendor`. Its module `features` has a
#: function `get_features(connection)`.
BACKENDS = {
    "postgresql": "django_safe_init.backends.postgresql",
    "sqlite": "django_safe_init.backends.sqlite3",
}


def get_features(alias: str) -> BackendFeatures:
    """Return the features of the database, without opening a connection.

    An engine that Django cannot load, for example without its driver, has an obstacle.
    """
    try:
        connection = connections[alias]
    except ImproperlyConfigured as exc:
        return _not_loaded(one_line(exc))
    folder = BACKENDS.get(connection.vendor)
    if folder is None:
        return BackendFeatures()
    features: BackendFeatures = import_module(f"{folder}.features").get_features(
        connection
    )
    return features


def _not_loaded(reason: str) -> BackendFeatures:
    if "psycopg" not in reason:
        return BackendFeatures(
            obstacle=f"{reason.rstrip('.')}.",
            remedy="Correct its ENGINE in DATABASES, or install the driver.",
            is_loaded=False,
        )
    from django_safe_init.backends.postgresql.features import without_driver

    return replace(without_driver(reason.rstrip(".")), is_loaded=False)


def get_backend_class(alias: str) -> type[BaseBackend]:
    """Return the backend class for the database.

    Every engine that Django can load has one, but only some can lead: see `require_lock`. Raises
    `UnsupportedEngine` for an engine that Django cannot load.
    """
    check_loaded(alias)
    backend: type[BaseBackend] = import_string(get_features(alias).backend)
    return backend


def with_lock(aliases: Iterable[str]) -> list[str]:
    """Return the aliases of the databases that a leader can initialize."""
    return [alias for alias in aliases if get_features(alias).has_lock]


def require_lock(alias: str) -> None:
    """Raise `UnsupportedEngine` if two processes could initialize the database at once."""
    features = get_features(alias)
    if features.obstacle:
        raise _obstructed(alias, features)
    if not features.is_supported:
        engine = connections.settings[alias]["ENGINE"]
        raise UnsupportedEngine(
            f"No leader lock for database {alias!r}: its engine {engine} has none. Use "
            "PostgreSQL, or accept the risk of concurrent initialization with SAFE_INIT = "
            '{"LOCK": "none"}.'
        )


def check_driver(alias: str, settings: Settings) -> None:
    """Raise `UnsupportedEngine` if the installed driver does not serve this package.

    With `LOCK` "none" a driver that only Django can use serves, too.
    """
    features = get_features(alias)
    if features.obstacle and (settings.lock == "auto" or not features.is_loaded):
        raise _obstructed(alias, features)


def check_loaded(alias: str) -> None:
    """Raise `UnsupportedEngine` if Django cannot load the engine of the database."""
    features = get_features(alias)
    if not features.is_loaded:
        raise _obstructed(alias, features)


def _obstructed(alias: str, features: BackendFeatures) -> UnsupportedEngine:
    return UnsupportedEngine(
        f"No leader lock for database {alias!r}: {features.obstacle} {features.remedy}"
    )


def get_backend(context: Context) -> BaseBackend:
    """Return the backend for the context's database. Raises `UnsupportedEngine`."""
    return get_backend_class(context.alias)(context)


def bounded_reads(alias: str) -> AbstractContextManager[None]:
    """Return a context manager that bounds the reads on Django's own connection.

    A read that waits for a lock raises Django's `OperationalError` after a second. Other engines
    are not bounded. Raises `ImproperlyConfigured` without the engine's driver.
    """
    connection = connections[alias]
    folder = BACKENDS.get(connection.vendor)
    if folder is None:
        return nullcontext()
    bounded: AbstractContextManager[None] = import_module(
        f"{folder}.bounded_reads"
    ).bounded_reads(connection)
    return bounded


def schema_guard(schema: str, context: Context) -> AbstractContextManager[None]:
    """Return a context manager that holds the key of a tenant's schema.

    On this thread's connection to the context's database. Raises `WaitTimeout`.
    """
    connection = connections[context.alias]
    guard: AbstractContextManager[None] = import_module(
        f"{BACKENDS[connection.vendor]}.schema_guard"
    ).schema_guard(connection, schema, context)
    return guard


def open_schemas(session: RunSession, alias: str, tenancy: Tenancy) -> BaseSchemas:
    """Return the tenants' schemas of the database, for the leader of a run."""
    folder = BACKENDS[connections[alias].vendor]
    schemas: BaseSchemas = import_module(f"{folder}.schemas").open_schemas(
        session, tenancy
    )
    return schemas


def privileged_steps(alias: str, build: Build) -> tuple[StepDefinition, ...]:
    """Return the build's privileged steps for the database, in order.

    Empty if the database has no roles and grants.
    """
    if not build.privileged or not get_features(alias).supports_privileged_steps:
        return ()
    return tuple(step for step in build.privileged if step.belongs_to(alias))
