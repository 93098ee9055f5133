"""Run the receivers of `pre_migrate` and `post_migrate` for one schema after another.

Django's own receivers of `post_migrate` create content types and permissions, one app at a time.
Their rows are the same in all schemas of a kind, so they are computed once and written in bulk.
Other receivers run as Django would run them.
"""

from __future__ import annotations

import io
from copy import copy
from dataclasses import replace
from typing import Any

from django.apps import apps as installed_apps
from django.core.management.sql import (
    emit_post_migrate_signal,
    emit_pre_migrate_signal,
)
from django.db import router
from django.db.migrations import Migration
from django.db.migrations.state import ModelState
from django.db.models.signals import post_migrate, pre_migrate

from django_safe_init.backends.base.schema_session import ReceiverRows
from django_safe_init.conf import Settings
from django_safe_init.core.build import Build
from django_safe_init.core.schemas import digest
from django_safe_init.initialization.release import receivers_of
from django_safe_init.initialization.schemas.plans import Plan, PlannedMigration
from django_safe_init.initialization.schemas.replayable import are_routers_known


def receivers_digest(alias: str, build: Build, settings: Settings) -> str:
    """Return a digest of what the receivers of `post_migrate` do in a schema.

    It changes with the permissions of the models. With receivers of the project it changes with
    each build and release, because only they know what they do.
    """
    rows = rows_of(alias, installed_apps, is_filtered=False)
    parts = [*map("\t".join, rows.content_types), *map("\t".join, rows.permissions)]
    own = receivers_of(post_migrate) | receivers_of(pre_migrate)
    if own:
        parts += [*own, build.fingerprint, settings.release or ""]
    return digest(parts)


def rows_of(alias: str, apps: Any, *, is_filtered: bool = True) -> ReceiverRows:
    """Return the rows that Django's own receivers create for the models in `apps`.

    With `is_filtered`, only those whose table the schema that is active has. Like Django's
    receivers, they are for the models of all apps.
    """
    types: list[tuple[str, str]] = []
    permissions: list[tuple[str, str, str, str]] = []
    has_types = _has(alias, "contenttypes", "ContentType", is_filtered)
    has_permissions = _has(alias, "auth", "Permission", is_filtered)
    # For a permission, Django finds its content type on the search path, or creates it there.
    if not (has_types or has_permissions):
        return ReceiverRows()
    for config in installed_apps.get_app_configs():
        if config.models_module is None:
            continue
        try:
            models = list(apps.get_app_config(config.label).get_models())
        except LookupError:
            continue
        for model in models:
            types.append((config.label, str(model._meta.model_name)))
            if has_permissions:
                permissions += [
                    (config.label, str(model._meta.model_name), codename, str(name))
                    for codename, name in _permissions(model)
                ]
    return ReceiverRows(tuple(types), tuple(permissions))


def _has(alias: str, label: str, model: str, is_filtered: bool) -> bool:
    if not installed_apps.is_installed(f"django.contrib.{label}"):
        return False
    if not is_filtered:
        return True
    return bool(
        router.allow_migrate_model(alias, installed_apps.get_model(label, model))
    )


def _permissions(model: Any) -> list[tuple[str, str]]:
    # Any: Django has no public name for it.
    from django.contrib.auth.management import _get_all_permissions  # type: ignore[attr-defined]

    found: list[tuple[str, str]] = list(_get_all_permissions(model._meta))
    return found


class Receivers:
    """The receivers of one database, for all schemas of a run."""

    def __init__(self, alias: str) -> None:
        self.alias = alias
        self._has_pre = bool(receivers_of(pre_migrate))
        self._has_post = bool(receivers_of(post_migrate))

    @property
    def run_code(self) -> bool:
        """True if the project has receivers."""
        return self._has_pre or self._has_post

    def before(self, plan: Plan) -> list[PlannedMigration]:
        """Send `pre_migrate`, if the project has a receiver, and return the migrations to apply.

        A receiver may add operations to the plan, in each schema again. Such a migration runs for
        real.
        """
        if not self._has_pre:
            return plan.migrations
        state = plan.migrations[0].state if plan.migrations else plan.state
        copies = [_copied(planned.migration) for planned in plan.migrations]
        emit_pre_migrate_signal(
            0,
            False,
            self.alias,
            stdout=io.StringIO(),
            apps=state.clone().apps,
            plan=[(copied, False) for copied in copies],
        )
        return [
            planned
            if copied.operations == planned.migration.operations
            else replace(planned, migration=copied, statements=None, runs_python=True)
            for planned, copied in zip(plan.migrations, copies, strict=True)
        ]

    def rows(self, plan: Plan) -> ReceiverRows:
        """Return the rows to create after the plan, in an active schema of its kind.

        None after the rename of a model: Django's receivers first rename rows, and refuse to if
        the new ones exist.
        """
        if plan.renames_models:
            return ReceiverRows()
        # A router of the project may give each schema other tables.
        if plan.rows is None or not are_routers_known():
            plan.rows = rows_of(self.alias, self._final_apps(plan))
        return plan.rows

    def after(self, plan: Plan) -> None:
        """Send `post_migrate`, if rows in bulk are not enough."""
        if self._has_post or plan.renames_models:
            apps = self._final_apps(plan)
            clear_caches(apps)
            clear_caches(installed_apps)
            emit_post_migrate_signal(
                0, False, self.alias, stdout=io.StringIO(), apps=apps, plan=plan.pairs
            )
        else:
            self._create_site(plan)

    def _create_site(self, plan: Plan) -> None:
        if not installed_apps.is_installed("django.contrib.sites"):
            return
        from django.contrib.sites.management import create_default_site

        create_default_site(
            installed_apps.get_app_config("sites"),
            verbosity=0,
            interactive=False,
            using=self.alias,
            apps=self._final_apps(plan),
        )

    def _final_apps(self, plan: Plan) -> Any:
        """Return the models that Django's `migrate` gives the receivers of `post_migrate`."""
        if plan.final_apps is None:
            state = plan.state.clone()
            state.clear_delayed_apps_cache()
            apps: Any = state.apps
            with apps.bulk_update():
                keys = [(each.app_label, each.name_lower) for each in apps.real_models]
                for key in keys:
                    apps.unregister_model(*key)
            apps.render_multiple(
                [ModelState.from_model(installed_apps.get_model(*key)) for key in keys]
            )
            plan.final_apps = apps
        return plan.final_apps


def _copied(migration: Migration) -> Migration:
    copied: Any = copy(migration)
    copied.operations = list(migration.operations)
    result: Migration = copied
    return result


def clear_caches(apps: Any) -> None:
    """Clear the managers' caches of rows, which know the alias and not the schema."""
    for model in apps.get_models():
        for manager in model._meta.managers:
            clear = getattr(manager, "clear_cache", None)
            if callable(clear):
                clear()
