"""Which `migrate` is Django's for this project, and how to run it."""

from __future__ import annotations

import io
import os
from importlib import import_module
from typing import Any

from django.apps import apps
from django.core.management import (
    BaseCommand,
    call_command,
    find_commands,
    get_commands,
    load_command_class,
)

OUR_APP = "django_safe_init"


def apps_with_migrate() -> list[str]:
    """The installed apps that bring a `migrate` of their own, in the order of INSTALLED_APPS."""
    return [
        config.name
        for config in apps.get_app_configs()
        if "migrate" in find_commands(os.path.join(config.path, "management"))
    ]


def next_migrate() -> type[BaseCommand]:
    """The `migrate` that ours extends: that of the next app which has one, or Django's.

    So packages that override `migrate` compose, whatever they are.
    """
    names = apps_with_migrate()
    later = names[names.index(OUR_APP) + 1 :] if OUR_APP in names else []
    module = import_module(
        f"{(later or ['django.core'])[0]}.management.commands.migrate"
    )
    command: type[BaseCommand] = module.Command
    return command


def migrate_command() -> BaseCommand:
    """The project's `migrate`, if it extends ours; otherwise ours."""
    from django_safe_init.management.commands.migrate import Command

    winner = load_command_class(get_commands()["migrate"], "migrate")
    return winner if isinstance(winner, Command) else Command()


def run_migrate(
    database: str,
    *,
    verbosity: int = 0,
    stdout: Any = None,
    **options: Any,
) -> None:
    """Run the project's `migrate` for all apps, silently unless told otherwise."""
    call_command(
        migrate_command(),
        database=database,
        interactive=False,
        verbosity=verbosity,
        stdout=stdout or io.StringIO(),
        skip_checks=True,
        **options,
    )
