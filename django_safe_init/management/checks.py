"""System checks. Only W007 opens a database, and only one that Django is told to check."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import wraps
from typing import Any

from django.apps import AppConfig, apps
from django.conf import settings as django_settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.core.management import get_commands
from django.db import connections, router
from django.db.models import Model
from django.urls import Resolver404, ResolverMatch, resolve

from django_safe_init.backends import get_features
from django_safe_init.backends.base.features import BackendFeatures
from django_safe_init.conf import (
    RELEASE_VARIABLE,
    Settings,
    get_settings,
    iter_errors,
)
from django_safe_init.core import step_registry as steps
from django_safe_init.core.build import migrated_apps
from django_safe_init.core.databases import is_empty
from django_safe_init.exceptions import ConfigurationError
from django_safe_init.initialization.migrate_command import (
    APP_NAME,
    extends_ours,
    project_migrate,
)
from django_safe_init.initialization.release import project_receivers
from django_safe_init.pools.config import pool_of, primary_alias
from django_safe_init.pools.router import ROUTER, is_routed, pool_names

_MIDDLEWARE = f"{APP_NAME}.middleware.InitializationMiddleware"
#: The schemas of a connection, in the options of libpq's command line.
_SEARCH_PATH = re.compile(r"search_path\s*=\s*(\S+)")
_SETTING_IDS = {"unknown": "safe_init.E001", "type": "safe_init.E002"}
_STEP_IDS = {
    "name": "safe_init.E005",
    "after": "safe_init.E006",
    "cycle": "safe_init.E007",
}

Check = Callable[..., list[CheckMessage]]


def needs_settings(check: Check) -> Check:
    """Pass the settings to a check, or skip it if E001 or E002 reports them as invalid."""

    @wraps(check)
    def wrapper(*args: Any, **kwargs: Any) -> list[CheckMessage]:
        try:
            settings = get_settings()
        except ConfigurationError:
            return []
        return check(*args, settings=settings, **kwargs)

    return wrapper


@register("safe_init")
def check_settings(
    app_configs: Sequence[AppConfig] | None, **kwargs: Any
) -> list[CheckMessage]:
    """E001: SAFE_INIT has an unknown key. E002: a key has an invalid value."""
    return [
        Error(problem.message, hint=problem.hint, id=_SETTING_IDS[problem.kind])
        for problem in iter_errors()
    ]


@register("safe_init")
@needs_settings
def check_engines(
    app_configs: Sequence[AppConfig] | None, settings: Settings, **kwargs: Any
) -> list[CheckMessage]:
    """W001: a database has an engine without a leader lock. W008: its driver is missing."""
    if settings.lock == "none":
        return []
    features = {alias: get_features(alias) for alias in settings.databases}
    return [
        _without_lock(alias, each)
        for alias, each in features.items()
        if not each.is_supported
    ]


def _without_lock(alias: str, features: BackendFeatures) -> CheckMessage:
    if features.obstacle:
        return Warning(
            f"The database {alias!r} has no leader lock: {features.obstacle} "
            "`migrate` is Django's own, and the safe_* commands refuse to work.",
            hint=features.remedy,
            id="safe_init.W008",
        )
    engine = connections.settings[alias]["ENGINE"]
    return Warning(
        f"The database {alias!r} ({engine}) has no leader lock.",
        hint='Use PostgreSQL, take the alias out of SAFE_INIT["DATABASES"], or accept '
        'concurrent initialization with SAFE_INIT = {"LOCK": "none"}.',
        id="safe_init.W001",
    )


@register("safe_init")
@needs_settings
def check_other_databases(
    app_configs: Sequence[AppConfig] | None, settings: Settings, **kwargs: Any
) -> list[CheckMessage]:
    """W011: the project has a database that could be initialized, and does not say if it is."""
    is_chosen = "DATABASES" in getattr(django_settings, "SAFE_INIT", {})
    if is_chosen or settings.mode == "off":
        return []
    chosen = [alias for alias in settings.databases if not is_empty(alias)]
    others = [alias for alias in connections.settings if _is_left_out(alias, settings)]
    covered = f"only {', '.join(map(repr, chosen))}" if chosen else "no database"
    confirmation = (
        f", or {json.dumps(chosen)} to confirm that the others are left out"
        if chosen
        else ""
    )
    return [
        Warning(
            f"The database {alias!r} is not initialized: safe_migrate and the health checks "
            f"cover {covered}.",
            hint=f'Set SAFE_INIT = {{"DATABASES": {json.dumps([*chosen, *others])}}}'
            f"{confirmation}.",
            id="safe_init.W011",
        )
        for alias in others
    ]


def _is_left_out(alias: str, settings: Settings) -> bool:
    """Return True for a database that a leader could migrate, and never does."""
    entry = connections.settings[alias]
    if alias in settings.databases or alias == settings.privileged_database:
        return False
    if pool_of(alias) or entry["TEST"]["MIRROR"]:
        return False
    same = (
        _location(connections.settings.get(each, {})) for each in settings.databases
    )
    if _location(entry) in same or not get_features(alias).has_lock:
        return False
    return _may_be_migrated(alias)


def _location(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the server, the name and the schemas of a database: two aliases may share them."""
    options = entry.get("OPTIONS", {})
    keys = ("ENGINE", "HOST", "PORT", "NAME")
    schemas = _SEARCH_PATH.findall(str(options.get("options")))
    return *(str(entry.get(key)) for key in keys), str(options.get("service")), *schemas


def _may_be_migrated(alias: str) -> bool:
    """Return True if the routers allow a migration of one app on the database."""
    labels = migrated_apps()
    for config in apps.get_app_configs():
        models = [each for each in config.get_models(True) if _is_managed(each)]
        if any(router.allow_migrate_model(alias, each) for each in models):
            return True
        only_migrations = not models and config.label in labels
        if only_migrations and router.allow_migrate(alias, config.label):
            return True
    return False


def _is_managed(model: type[Model]) -> bool:
    options = model._meta
    return options.managed and not options.proxy and not options.swapped


@register("safe_init")
@needs_settings
def check_receivers(
    app_configs: Sequence[AppConfig] | None, settings: Settings, **kwargs: Any
) -> list[CheckMessage]:
    """W010: receivers that may change with each release, and no release is known."""
    if settings.mode != "self" or settings.release is not None:
        return []
    receivers = project_receivers()
    if not receivers:
        return []
    return [
        Warning(
            "These receivers of pre_migrate or post_migrate may change without a migration, so "
            f"each start of safe_migrate runs them: {', '.join(receivers)}.",
            hint=f"Set {RELEASE_VARIABLE} to the commit or image of the release, or set "
            'SAFE_INIT = {"RELEASE": "..."}. Starts of the same release then have nothing to do.',
            id="safe_init.W010",
        )
    ]


@register("safe_init")
def check_pool_router(
    app_configs: Sequence[AppConfig] | None, **kwargs: Any
) -> list[CheckMessage]:
    """E004: a database has slow pools, and `PoolRouter` is not the first router."""
    if not pool_names() or is_routed():
        return []
    return [
        Error(
            f"A database has slow pools, and {ROUTER} is not the first of DATABASE_ROUTERS: "
            "using_pool() has no effect.",
            hint=f'Set DATABASE_ROUTERS = ["{ROUTER}", ...].',
            id="safe_init.E004",
        )
    ]


@register("safe_init")
def check_pool_transactions(
    app_configs: Sequence[AppConfig] | None, **kwargs: Any
) -> list[CheckMessage]:
    """W006: each request is one transaction, whose queries cannot use a slow pool."""
    pooled = {primary_alias(alias) for alias in connections.settings if pool_of(alias)}
    return [
        Warning(
            f"ATOMIC_REQUESTS of the database {alias!r} makes each request one transaction: "
            "using_pool() has no effect in views.",
            hint="Mark the views that use it with @transaction.non_atomic_requests, and silence "
            "this warning; or set ATOMIC_REQUESTS to False.",
            id="safe_init.W006",
        )
        for alias in sorted(pooled)
        if connections.settings[alias]["ATOMIC_REQUESTS"]
    ]


@register("safe_init")
def check_steps(
    app_configs: Sequence[AppConfig] | None, **kwargs: Any
) -> list[CheckMessage]:
    """E005: duplicate step. E006: invalid `after`. E007: dependency cycle. E008: invalid step."""
    try:
        found = steps.registry.steps()
    except ConfigurationError as exc:
        hint = "See init_step() in the reference."
        return [Error(str(exc), hint=hint, id="safe_init.E008")]
    return [
        Error(problem.message, hint=problem.hint, id=_STEP_IDS[problem.kind])
        for problem in steps.iter_errors(found)
    ]


@register(Tags.database)
def check_serving_role(
    app_configs: Sequence[AppConfig] | None,
    databases: Sequence[str] | None = None,
    **kwargs: Any,
) -> list[CheckMessage]:
    """W007: the project has privileged steps, and the application's role is an administrator's.

    The check opens the database, so Django runs it only for the databases of `check --database`.
    It has no other tag: with one, Django 6.1 would run it for all databases.
    """
    try:
        found = steps.registry.steps()
    except ConfigurationError:  # reported by E008
        return []
    if not any(step.phase == "privileged" for step in found):
        return []
    from django_safe_init.privileged.status import is_administrator

    return [
        Warning(
            f"The role of the database {alias!r} is a superuser, or may create roles: what only "
            "the privileged phase should do, the application may do, too.",
            hint="Log in as a role that `privileged.ensure_role` has made, and keep the "
            "administrator's credentials for PRIVILEGED_DATABASE.",
            id="safe_init.W007",
        )
        for alias in databases or ()
        if get_features(alias).supports_privileged_steps and is_administrator(alias)
    ]


@register("safe_init")
def check_migrate(
    app_configs: Sequence[AppConfig] | None, **kwargs: Any
) -> list[CheckMessage]:
    """W002: the project's `migrate` does not extend this package's."""
    if extends_ours(project_migrate()):
        return []
    app = get_commands()["migrate"]
    return [
        Warning(
            f"The `migrate` of {app} is used, and it does not extend that of {APP_NAME}: "
            "`manage.py migrate` takes no leader lock.",
            hint=f"Put {APP_NAME!r} before {app!r} in INSTALLED_APPS; ours then extends theirs.",
            id="safe_init.W002",
        )
    ]


@register("safe_init")
def check_pgmigrate(
    app_configs: Sequence[AppConfig] | None, **kwargs: Any
) -> list[CheckMessage]:
    """W009: django-pgmigrate replaces Django's `migrate`, which this project does not use."""
    patches = getattr(django_settings, "PGMIGRATE_PATCH_MIGRATE", True)
    if not (patches and apps.is_installed("pgmigrate")):
        return []
    app = get_commands()["migrate"]
    return [
        Warning(
            f"django-pgmigrate has no effect on `migrate`, which is that of {app}: it replaces "
            "only Django's own.",
            hint='Set SAFE_INIT = {"DDL_LOCK_TIMEOUT": ...}, and take "pgmigrate" out of '
            "INSTALLED_APPS, or set PGMIGRATE_PATCH_MIGRATE = False.",
            id="safe_init.W009",
        )
    ]


@register("safe_init")
def check_middleware(
    app_configs: Sequence[AppConfig] | None, **kwargs: Any
) -> list[CheckMessage]:
    """W003: another middleware precedes `InitializationMiddleware`."""
    if _MIDDLEWARE not in django_settings.MIDDLEWARE[1:]:
        return []
    return [
        Warning(
            f"{_MIDDLEWARE} is not the first in MIDDLEWARE: probes are answered by what comes "
            "before it, which may redirect them, refuse their host or need the database.",
            hint="Move it to the first place.",
            id="safe_init.W003",
        )
    ]


@register("safe_init", Tags.urls)
@needs_settings
def check_paths(
    app_configs: Sequence[AppConfig] | None, settings: Settings, **kwargs: Any
) -> list[CheckMessage]:
    """W004: the middleware answers a path that the project has a route for."""
    if _MIDDLEWARE not in django_settings.MIDDLEWARE:
        return []
    return [
        Warning(
            f"The middleware answers {path}, so the route {route!r} is not reached there.",
            hint=f'Choose another path: SAFE_INIT = {{"PATHS": {{"{name}": "/..."}}}}, '
            "or None for none.",
            id="safe_init.W004",
        )
        for name, path in settings.paths.items()
        if path is not None
        for route in _shadowed(path)
    ]


@register("safe_init")
@needs_settings
def check_serve(
    app_configs: Sequence[AppConfig] | None, settings: Settings, **kwargs: Any
) -> list[CheckMessage]:
    """W005: SERVE is "initialize" without the middleware, which starts the initialization."""
    if settings.serve != "initialize" or _MIDDLEWARE in django_settings.MIDDLEWARE:
        return []
    return [
        Warning(
            'SAFE_INIT has SERVE "initialize", and without the middleware no server begins to.',
            hint=f"Put {_MIDDLEWARE!r} first in MIDDLEWARE.",
            id="safe_init.W005",
        )
    ]


def _shadowed(path: str) -> Iterator[str]:
    """Yield the project's route for the path, unless it is a catch-all route."""
    from django_safe_init.serving.http.views import live, ready, status

    match = _match(path)
    if match is None or match.func in (live, ready, status):
        return
    random_path = "/".join(
        secrets.token_hex(8) if part else "" for part in path.split("/")
    )
    other = _match(random_path)
    if other is None or other.route != match.route:
        yield match.route


def _match(path: str) -> ResolverMatch | None:
    if not hasattr(django_settings, "ROOT_URLCONF"):
        return None
    try:
        return resolve(path)
    except Resolver404:
        return None
