"""Let the packages' own commands that migrate schemas be this package's `migrate`."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from django.apps import apps

#: The module of the command, by the name of the package's app.
_MODULES = {
    "django_tenants": "django_tenants.management.commands.migrate_schemas",
    "django_pgschemas": "django_pgschemas.management.commands.migrateschema",
}


def _migrate(**options: Any) -> Any:
    # Imported here: few processes run the command.
    from django_safe_init.management.commands.migrate import Command

    return Command(**options)


def replace_commands() -> None:
    """Replace the command of each installed package, which would migrate without the lock.

    Django makes a command by calling `Command` of its module. The package's class stays as it
    is, for subclasses of the project.
    """
    for app, module in _MODULES.items():
        if apps.is_installed(app):
            commands: Any = import_module(module)
            commands.Command = _migrate
