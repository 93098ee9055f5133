"""The app of the scenarios, with the points at which `SCENARIO_KILL_AT` kills the process."""

from collections.abc import Callable
from typing import Any

from django.apps import AppConfig
from django.core.checks import CheckMessage, Error, Warning, register
from django.core.management.commands.migrate import Command
from django.db import connection, connections, transaction
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder
from django.db.models.signals import post_migrate, pre_migrate

import acts


class ShopConfig(AppConfig):
    name = "shop"

    def ready(self) -> None:
        if acts.chosen("LOADS"):
            acts.note("loading")
            acts.wait_for("load")
        if acts.chosen("CHECK"):
            register(check_project)
        if acts.chosen("RECEIVERS", "connected"):
            pre_migrate.connect(report_pre_migrate, sender=self)
            post_migrate.connect(report_post_migrate, sender=self)
        for method in ("record_applied", "record_unapplied"):
            setattr(
                MigrationRecorder, method, deadly(getattr(MigrationRecorder, method))
            )
        Command.migration_progress_callback = deadly_progress(
            Command.migration_progress_callback
        )


def check_project(**kwargs: Any) -> list[CheckMessage]:
    """Fail, break, or refuse a half-migrated database, as `SCENARIO_CHECK` says."""
    acts.note("check")
    chosen = acts.chosen("CHECK")
    if chosen == "waits":
        acts.wait_for("check")
    if chosen == "breaks":
        raise LookupError("no such plugin")
    if chosen == "half-migrated":
        loader = MigrationLoader(connection)
        known = {key for key in loader.disk_migrations if key[0] == "shop"}
        if known & set(loader.applied_migrations) in (set(), known):
            return []
    return [
        Error("The license is missing.", hint="Buy one.", id="shop.E001"),
        Warning("It is Friday.", id="shop.W001"),
    ]


def report_pre_migrate(**kwargs: Any) -> None:
    if acts.chosen("PRINT"):
        print("printed by a pre_migrate receiver")


def report_post_migrate(using: str, **kwargs: Any) -> None:
    acts.note("post_migrate")
    if view := acts.chosen("VIEW"):
        install_view(using, view)
    if acts.chosen("HOLD_RECEIVER"):
        acts.wait_for("receiver")
    if acts.chosen("PRINT"):
        print("printed by a post_migrate receiver")
    acts.die_once("post_migrate")


def install_view(using: str, version: str) -> None:
    """Replace the view of an earlier release, as packages for views do in each `migrate`."""
    with transaction.atomic(using), connections[using].cursor() as cursor:
        cursor.execute("DROP VIEW IF EXISTS shop_view")
        cursor.execute(f"CREATE VIEW shop_view AS SELECT '{version}' AS version")


def deadly(method: Callable[..., None]) -> Callable[..., None]:
    """Die before or after recording a migration: `before record_applied shop.0002_sale`."""

    def wrapper(self: MigrationRecorder, app: str, name: str) -> None:
        acts.die_once(f"before {method.__name__} {app}.{name}")
        method(self, app, name)
        acts.die_once(f"after {method.__name__} {app}.{name}")

    return wrapper


def deadly_progress(method: Callable[..., None]) -> Callable[..., None]:
    """Die when Django reports progress: `apply_success shop.0002_sale`."""

    def wrapper(
        self: Command, action: str, migration: Any = None, fake: bool = False
    ) -> None:
        acts.die_once(f"{action} {migration}")
        method(self, action, migration, fake)

    return wrapper
