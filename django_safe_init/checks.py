"""System checks. None of them opens the database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig, apps
from django.core.checks import CheckMessage, Error, Warning, register
from django.core.management import get_commands, load_command_class
from django.db import connections

from django_safe_init.aliases import Engine, engine_of
from django_safe_init.conf import get_settings, problems
from django_safe_init.exceptions import ConfigurationError
from django_safe_init.migrating import OUR_APP

#: Each migrates every tenant's schema by itself.
_EXECUTOR_APPS = ("django_tenants", "tenant_schemas")
_SETTING_IDS = {"unknown": "safe_init.E001", "type": "safe_init.E002"}


@register("safe_init")
def check_settings(
    app_configs: Sequence[AppConfig] | None, **kwargs: Any
) -> list[CheckMessage]:
    """E001: an unknown key in SAFE_INIT. E002: a value it cannot have."""
    return [
        Error(problem.message, hint=problem.hint, id=_SETTING_IDS[problem.kind])
        for problem in problems()
    ]


@register("safe_init")
def check_engines(
    app_configs: Sequence[AppConfig] | None, **kwargs: Any
) -> list[CheckMessage]:
    """W001: a database to be initialized has an engine without a lock."""
    try:
        settings = get_settings()
    except ConfigurationError:
        return []
    if settings.lock == "none":
        return []
    return [
        Warning(
            f"The database {alias!r} ({connections[alias].display_name}) has no leader lock.",
            hint='Use PostgreSQL, take the alias out of SAFE_INIT["DATABASES"], or accept '
            'concurrent initialization with SAFE_INIT = {"LOCK": "none"}.',
            id="safe_init.W001",
        )
        for alias in settings.databases
        if engine_of(alias) is Engine.UNKNOWN
    ]


@register("safe_init")
def check_executor(
    app_configs: Sequence[AppConfig] | None, **kwargs: Any
) -> list[CheckMessage]:
    """E003: an app migrates schema by schema, with executors that no single run describes."""
    return [
        Error(
            f"{app} replaces Django's migration executor, which {OUR_APP} does not support.",
            hint=f"Take {OUR_APP!r} out of INSTALLED_APPS and use the commands of {app}.",
            id="safe_init.E003",
        )
        for app in _EXECUTOR_APPS
        if apps.is_installed(app)
    ]


@register("safe_init")
def check_migrate(
    app_configs: Sequence[AppConfig] | None, **kwargs: Any
) -> list[CheckMessage]:
    """W002: another app's `migrate` is used instead of ours."""
    from django_safe_init.management.commands.migrate import Command

    app = get_commands()["migrate"]
    if isinstance(load_command_class(app, "migrate"), Command):
        return []
    return [
        Warning(
            f"The `migrate` of {app} is used, and it does not extend that of {OUR_APP}: "
            "`manage.py migrate` takes no leader lock.",
            hint=f"Put {OUR_APP!r} before {app!r} in INSTALLED_APPS; ours then extends theirs.",
            id="safe_init.W002",
        )
    ]
