"""Lookup of the project's `migrate` command, and a function that runs it."""

from __future__ import annotations

import io
import os
from importlib import import_module
from typing import Any

from django.apps import apps
from django.core.management import (
    BaseCommand,
    CommandError,
    CommandParser,
    call_command,
    find_commands,
    get_commands,
    load_command_class,
)
from django.db import DEFAULT_DB_ALIAS
from django.db.migrations.exceptions import AmbiguityError
from django.db.migrations.loader import MigrationLoader

from django_safe_init.exceptions import ConfigurationError

APP_NAME = "django_safe_init"
#: The options that decide what `migrate` does, with the values that it may be unable to change.
_DEFAULTS = {"database": DEFAULT_DB_ALIAS, "plan": False, "check_unapplied": False}


def apps_with_migrate() -> list[str]:
    """Return the installed apps with a `migrate` command, in the order of INSTALLED_APPS."""
    return [
        config.name
        for config in apps.get_app_configs()
        if "migrate" in find_commands(os.path.join(config.path, "management"))
    ]


def next_migrate() -> type[BaseCommand]:
    """Return the command class that this package's `migrate` extends.

    It comes from the next app in INSTALLED_APPS that has a `migrate`, so that packages which
    override `migrate` compose. Without such an app it is Django's.
    """
    names = apps_with_migrate()
    later = names[names.index(APP_NAME) + 1 :] if APP_NAME in names else []
    module = import_module(
        f"{(later or ['django.core'])[0]}.management.commands.migrate"
    )
    command: type[BaseCommand] = module.Command
    return command


def project_migrate() -> BaseCommand:
    """Return the `migrate` command that the project's `manage.py migrate` runs."""
    return load_command_class(get_commands()["migrate"], "migrate")


def extends_ours(command: BaseCommand) -> bool:
    """Return True if the command is this package's `migrate` or a subclass of it.

    An attribute marks the class: the library must not import a command.
    """
    return getattr(command, "reports_to_tracker", False)


def migrate_command() -> BaseCommand:
    """Return the project's `migrate` if it extends this package's, else this package's."""
    command = project_migrate()
    if extends_ours(command):
        return command
    return load_command_class(APP_NAME, "migrate")


def run_migrate(
    database: str,
    *,
    verbosity: int = 0,
    stdout: Any = None,
    **options: Any,
) -> None:
    """Run the project's `migrate` for all apps.

    Output goes to `stdout`, by default nowhere. The command gets those `options` which it knows.
    Raises `ConfigurationError` if the others would change the task.
    """
    command = migrate_command()
    wanted = {
        "database": database,
        "verbosity": verbosity,
        "interactive": False,
        "skip_checks": True,
        **options,
    }
    known = known_options(command, command.create_parser("manage.py", "migrate"))
    for name in wanted.keys() - known:
        if wanted[name] != _DEFAULTS.get(name, wanted[name]):
            raise ConfigurationError(
                f"No {name} {wanted[name]!r} for `migrate` of {type(command).__module__}: it has "
                f"no option {name!r}. Add the option to the command."
            )
    call_command(
        command,
        stdout=stdout or io.StringIO(),
        **{name: value for name, value in wanted.items() if name in known},
    )


def check_target(
    app_label: str | None, migration_name: str | None, *, run_syncdb: bool
) -> None:
    """Raise Django's `CommandError` for a target of `migrate` that does not exist.

    Django raises it after it has read the database. Here it comes before the leader lock and
    needs no database. `migrate` reports the error of a migration that cannot be imported.
    """
    if not app_label:
        return
    try:
        apps.get_app_config(app_label)
    except LookupError as exc:
        raise CommandError(str(exc)) from exc
    loader = MigrationLoader(None, load=False)
    try:
        loader.load_disk()
    except Exception:  # noqa: BLE001  (a migration is code of the project)
        return
    if app_label not in loader.migrated_apps and not run_syncdb:
        raise CommandError(f"App '{app_label}' does not have migrations.")
    if app_label in loader.migrated_apps and run_syncdb:
        raise CommandError(
            f"Can't use run_syncdb with app '{app_label}' as it has migrations."
        )
    if migration_name and migration_name != "zero":
        _check_migration(loader, app_label, migration_name)


def _check_migration(loader: MigrationLoader, app_label: str, name: str) -> None:
    try:
        loader.get_migration_by_prefix(app_label, name)
    except AmbiguityError as exc:
        raise CommandError(
            f"More than one migration matches '{name}' in app '{app_label}'. "
            "Please be more specific."
        ) from exc
    except KeyError as exc:
        raise CommandError(
            f"Cannot find a migration matching '{name}' from app '{app_label}'."
        ) from exc


def known_options(command: BaseCommand, parser: CommandParser) -> set[str]:
    """Return the names of the options that a caller may pass to the command."""
    hidden = (*command.base_stealth_options, *command.stealth_options)
    return {action.dest for action in parser._actions}.union(hidden)
