"""What this build of the project expects of a database."""

from __future__ import annotations

import hashlib
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec

import django
from django.apps import AppConfig, apps
from django.conf import settings

from django_safe_init.exceptions import ConfigurationError
from django_safe_init.version import __version__


@dataclass(frozen=True)
class Build:
    """The migrations a build knows, and a short name for exactly this build.

    `migrations` holds names like `shop.0001_initial`. `fingerprint` is a key of a cache: equal
    for equal builds, different as soon as a migration, an app, Django or this package differs.
    """

    migrations: frozenset[str]
    fingerprint: str


def current_build() -> Build:
    """This process's build, read from the folders: no migration module is imported.

    Raises `ConfigurationError` when `MIGRATION_MODULES` names a module that is not there.
    """
    configs = list(apps.get_app_configs())
    migrations = frozenset(
        name for config in configs for name in _migration_names(config)
    )
    return Build(migrations, _fingerprint(migrations, configs))


def _fingerprint(migrations: frozenset[str], configs: list[AppConfig]) -> str:
    parts = [
        *sorted(migrations),
        "--",
        *sorted(config.label for config in configs),
        "--",
        __version__,
        django.get_version(),
    ]
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=12).hexdigest()


def _migration_names(config: AppConfig) -> Iterator[str]:
    """The rule of Django's `MigrationLoader.load_disk`, without importing the modules."""
    for module in pkgutil.iter_modules(_migrations_path(config)):
        if not module.ispkg and module.name[0] not in "_~":
            yield f"{config.label}.{module.name}"


def _migrations_path(config: AppConfig) -> list[str]:
    explicit = config.label in settings.MIGRATION_MODULES
    name = (
        settings.MIGRATION_MODULES[config.label]
        if explicit
        else f"{config.name}.migrations"
    )
    if name is None:
        return []
    try:
        spec = find_spec(name)
    except ModuleNotFoundError:
        spec = None
    if spec is None and explicit:
        raise ConfigurationError(
            f"MIGRATION_MODULES[{config.label!r}] names {name!r}, which cannot be imported."
        )
    # A namespace package (no origin) has no migrations, for Django too.
    if spec is None or spec.origin is None or spec.submodule_search_locations is None:
        return []
    return list(spec.submodule_search_locations)
