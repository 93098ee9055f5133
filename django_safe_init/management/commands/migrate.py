"""`migrate`: Django's command under the leader lock, with recorded steps."""

from __future__ import annotations

from typing import Any

from django.core.management import CommandError
from django.db import connections
from django.db.migrations import Migration

from django_safe_init.backends import check_loaded, get_features
from django_safe_init.conf import effective_mode, get_settings
from django_safe_init.core import cancellation
from django_safe_init.core.databases import check_not_pool
from django_safe_init.exceptions import InitializationFailed
from django_safe_init.initialization.initializer import (
    Initializer,
    retry_while_busy,
    wait_for_server,
)
from django_safe_init.initialization.migrate_command import next_migrate
from django_safe_init.initialization.run_context import current_listener, in_run
from django_safe_init.initialization.types import InitializationOptions, MigrateTask
from django_safe_init.management.base import command_errors, exit_codes
from django_safe_init.management.console import printable_uncaught_errors, report_to


class Command(next_migrate()):  # type: ignore[misc]  # a class that depends on settings
    """Overrides `migrate`: exactly one process migrates a database at a time."""

    #: Read by `migrate_command.extends_ours`.
    reports_to_tracker = True

    def run_from_argv(self, argv: list[str]) -> None:
        """Run the command as `manage.py` does."""
        with printable_uncaught_errors():
            super().run_from_argv(argv)

    def execute(self, *args: Any, **options: Any) -> str | None:
        """Wait for the database server before Django's system checks, which may need it."""
        self._alias = alias = options["database"]
        with command_errors():
            check_not_pool(alias)
            self._check_engine(alias)
        self._was_connected = connections[alias].connection is not None
        if self._is_protected(options):
            with exit_codes():
                wait_for_server(alias, report_to(self.stderr))
        output: str | None = super().execute(*args, **options)
        return output

    def _check_engine(self, alias: str) -> None:
        """Raise `UnsupportedEngine` for an engine that Django cannot load, with the remedy."""
        if (
            not get_features(alias).is_loaded
            and effective_mode(get_settings()) != "off"
        ):
            check_loaded(alias)

    def check(self, *args: Any, **kwargs: Any) -> None:
        """Run Django's system checks, and repeat a check that finds no free connection."""
        with command_errors():
            retry_while_busy(
                lambda: super(Command, self).check(*args, **kwargs),
                self._alias,
                report_to(self.stderr),
            )

    def handle(self, *args: Any, **options: Any) -> None:
        """Wait until this process leads, then run Django's `migrate`."""
        alias = options["database"]
        if not self._is_protected(options):
            self._migrate(*args, **options)
            return
        if not self._was_connected:
            # The checks opened it, and another replica may need the connection slot.
            connections[alias].close()
        task = MigrateTask(
            migrate=lambda: self._migrate(*args, **options),
            command="migrate",
            full_target=not options["app_label"],
            require_ready=False,
            fake=options["fake"],
            report=report_to(self.stderr),
        )
        initialization = InitializationOptions(
            task, alias, mode="self", follow_success=False
        )
        try:
            with exit_codes():
                Initializer(initialization).run()
        except CommandError as exc:
            failure = exc.__cause__
            if type(failure) is InitializationFailed and failure.__cause__ is not None:
                raise failure.__cause__ from None  # Django's `migrate` raises it, too
            raise

    def _migrate(self, *args: Any, **options: Any) -> None:
        """Run Django's `migrate`, tracked if this thread is in a run."""
        tracker = current_listener(options["database"])
        # A `migrate` that a migration calls belongs to that migration.
        self._tracker = tracker if tracker and tracker.current is None else None
        super().handle(*args, **options)

    def _is_protected(self, options: dict[str, Any]) -> bool:
        alias = options["database"]
        if options["plan"] or options["check_unapplied"] or in_run(alias):
            return False
        with command_errors():
            mode = effective_mode(get_settings())
        return mode != "off" and get_features(alias).has_lock

    def migration_progress_callback(
        self, action: str, migration: Migration | None = None, fake: bool = False
    ) -> None:
        """Pass Django's progress on to the tracker of the run."""
        cancellation.check()
        tracker = self._tracker
        if tracker is not None and migration is not None:
            if action in ("apply_start", "unapply_start"):
                tracker.on_apply_start(
                    migration, backwards=action == "unapply_start", fake=fake
                )
            else:
                tracker.on_apply_success(fake=fake)
        super().migration_progress_callback(action, migration, fake)
