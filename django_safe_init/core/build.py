"""Identify this build of the project: the migrations and steps it expects in a database."""

from __future__ import annotations

import hashlib
import os
import pkgutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.machinery import all_suffixes
from importlib.util import find_spec

import django
from django.apps import AppConfig, apps
from django.conf import settings

from django_safe_init.core.step import StepDefinition
from django_safe_init.core.step_registry import registry
from django_safe_init.exceptions import ConfigurationError
from django_safe_init.version import __version__

#: The file name suffixes of importable modules, longest first.
_SUFFIXES = tuple(sorted(all_suffixes(), key=len, reverse=True))


@dataclass(frozen=True)
class Build:
    """The migrations and steps that a version of the project's code knows.

    `migrations` holds names like `shop.0001_initial`; `steps` are in the order to run. Builds
    with equal migrations, steps, apps, Django and django-safe-init have the same `fingerprint`.
    """

    migrations: frozenset[str]
    fingerprint: str
    steps: tuple[StepDefinition, ...] = ()
    #: Steps of the phase "privileged". Not part of the fingerprint, because PostgreSQL's catalog
    #: tells each time whether they are pending.
    privileged: tuple[StepDefinition, ...] = ()
    #: Return the squashed migrations with the migrations that must be recorded for each.
    #: Imports migrations, so it is called when a reader compares the build with a database.
    read_replacements: Callable[[], Mapping[str, frozenset[str]]] = field(
        default=dict, compare=False, repr=False
    )

    @cached_property
    def replacements(self) -> Mapping[str, frozenset[str]]:
        """The squashed migrations, with the migrations that must be recorded for each."""
        return self.read_replacements()

    @cached_property
    def required(self) -> frozenset[str]:
        """The migrations that are recorded once Django's loader calls all of them applied.

        Django never asks for the record of a squashed migration, only for the records of the
        migrations that it replaces, whose files may be deleted.
        """
        squashed = self.replacements
        return (self.migrations - squashed.keys()).union(*squashed.values())

    @property
    def known(self) -> frozenset[str]:
        """The migrations that this build defines, and those which its migrations replace."""
        return self.migrations | self.required

    def pending(self, recorded: Collection[str]) -> tuple[str, ...]:
        """Return the migrations that Django has to apply, sorted, without those they replace.

        `recorded` are the names in `django_migrations`.
        """
        # Imported here to keep the start with nothing to do fast.
        from django_safe_init.core import replacements

        squashed, unrecorded = self.replacements, self.required.difference(recorded)
        if any(name in recorded and squashed[name] & unrecorded for name in squashed):
            # Only its graph tells if Django applies the squashed migration again.
            plan = replacements.plan(recorded)
            if plan is not None:
                return plan
        return replacements.pending(squashed, unrecorded, self.migrations)

    def steps_of(self, alias: str) -> tuple[StepDefinition, ...]:
        """Return the steps that run in the database, in order."""
        return tuple(step for step in self.steps if step.belongs_to(alias))


def current_build() -> Build:
    """Return the build of this process, from the files in the migration folders.

    Imports the `init_steps` modules of the apps, but no migration. Raise `ConfigurationError`
    for an invalid step, or if `MIGRATION_MODULES` names a module that does not exist.
    """
    configs = list(apps.get_app_configs())
    migrations = frozenset(
        name for config in configs for name in _migration_names(config)
    )
    found = registry.ordered()
    steps = tuple(step for step in found if step.phase == "schema")
    privileged = tuple(step for step in found if step.phase == "privileged")
    fingerprint = _fingerprint(migrations, configs, steps)
    return Build(migrations, fingerprint, steps, privileged, _read_replacements)


def migrated_apps() -> frozenset[str]:
    """Return the labels of the apps with a migrations package, which may be empty."""
    return frozenset(
        config.label for config in apps.get_app_configs() if _migrations_path(config)
    )


def _fingerprint(
    migrations: frozenset[str],
    configs: list[AppConfig],
    steps: Sequence[StepDefinition],
) -> str:
    parts = [
        *sorted(migrations),
        "--",
        *sorted(config.label for config in configs),
        "--",
        __version__,
        django.get_version(),
        *(f"step {step.identity}" for step in steps),
    ]
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=12).hexdigest()


def _migration_names(config: AppConfig) -> Iterator[str]:
    """Yield the names that Django's `MigrationLoader.load_disk` would load, without imports."""
    for path in _migrations_path(config):
        for name in _migration_modules(path):
            yield f"{config.label}.{name}"


def _migration_modules(path: str) -> list[str]:
    return [name for name in _plain_modules(path) if name[0] not in "_~"]


def _plain_modules(path: str) -> set[str]:
    """Return the modules in a folder, as `pkgutil.iter_modules` finds them, without packages.

    Several times faster than `pkgutil`. A start on an initialized database spends most of its
    time here.
    """
    if not os.path.isdir(path):  # e.g. in a zip archive
        found = pkgutil.iter_modules([path])
        return {module.name for module in found if not module.ispkg}
    names, folders = set(), set()
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.name.endswith(_SUFFIXES):
                names.add(_stem(entry.name))
            elif entry.is_dir():
                folders.add(entry.name)
    packages = {
        name
        for name in names & folders
        if "__init__" in _plain_modules(os.path.join(path, name))
    }
    return {name for name in names - packages if "." not in name}


def _stem(name: str) -> str:
    if name.endswith(".py"):  # the usual case
        return name[:-3]
    return next(name[: -len(end)] for end in _SUFFIXES if name.endswith(end))


def _read_replacements() -> dict[str, frozenset[str]]:
    # Imported here to keep the start with nothing to do fast.
    from django_safe_init.core.replacements import replaced_by, resolve

    replaces: dict[str, tuple[str, ...]] = {}
    for config in apps.get_app_configs():
        module = _migrations_module(config)
        for path in _migrations_path(config):
            found = replaced_by(
                config.label, str(module), path, _migration_modules(path)
            )
            replaces.update(found)
    return resolve(replaces)


def _migrations_path(config: AppConfig) -> list[str]:
    return _default_path(config) or _imported_path(config)


def _default_path(config: AppConfig) -> list[str]:
    """Return `migrations/` in the app's folder, without a slow query of the import system."""
    roots = list(getattr(config.module, "__path__", ()))
    if config.label in settings.MIGRATION_MODULES or len(roots) != 1:
        return []
    path = os.path.join(roots[0], "migrations")
    return [path] if os.path.isfile(os.path.join(path, "__init__.py")) else []


def _migrations_module(config: AppConfig) -> str | None:
    default = f"{config.name}.migrations"
    name: str | None = settings.MIGRATION_MODULES.get(config.label, default)
    return name


def _imported_path(config: AppConfig) -> list[str]:
    explicit = config.label in settings.MIGRATION_MODULES
    name = _migrations_module(config)
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
    # Django also finds no migrations in a namespace package, which has no origin.
    if spec is None or spec.origin is None or spec.submodule_search_locations is None:
        return []
    return list(spec.submodule_search_locations)
