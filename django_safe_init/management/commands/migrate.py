"""Django's `migrate`, whole, under the leader lock and with the same tracking."""

from __future__ import annotations

import sys
from typing import Any

from django.core.management import CommandError
from django.db import connections
from django.db.migrations import Migration

from django_safe_init.backends import get_features
from django_safe_init.conf import effective_mode, get_settings
from django_safe_init.core import cancellation
from django_safe_init.core.databases import check_not_pool
from django_safe_init.core.signal_handling import Interrupted, interruptible
from django_safe_init.exceptions import InitializationFailed
from django_safe_init.initialization.initializer import (
    Initializer,
    retry_while_busy,
    wait_for_server,
)
from django_safe_init.initialization.migrate_command import next_migrate
from django_safe_init.initialization.run_context import (
    current_tracker,
    in_run,
)
from django_safe_init.initialization.types import InitializationOptions, MigrateTask
from django_safe_init.management.console import command_errors, report_to


class Command(next_migrate()):  # type: ignore[misc]  # whichever app's it is
    """Overrides `migrate`: exactly one process migrates a database at a time."""

    #: Read by `migrate_command.extends_ours`.
    reports_to_tracker = True

    def execute(self, *args: Any, **options: Any) -> str | None:
        """Wait for the server before Django's system checks, which may open the database."""
        self._alias = alias = options["database"]
        with command_errors():
            check_not_pool(alias)
        self._was_connected = connections[alias].connection is not None
        if self._is_protected(options):
            self._wait_for_server(alias)
        output: str | None = super().execute(*args, **options)
        return output

    def _wait_for_server(self, alias: str) -> None:
        try:
            with interruptible(), command_errors():
                wait_for_server(alias, report_to(self.stderr))
        except Interrupted as exc:
            sys.exit(exc.exit_code)

    def check(self, *args: Any, **kwargs: Any) -> None:
        """Django's system checks, which may open the database, also while it is full."""
        with command_errors():
            retry_while_busy(
                lambda: super(Command, self).check(*args, **kwargs),
                self._alias,
                report_to(self.stderr),
            )

    def handle(self, *args: Any, **options: Any) -> None:
        """Lead, or follow until it is possible to lead; then do what Django does."""
        alias = options["database"]
        if not self._is_protected(options):
            self._migrate(*args, **options)
            return
        if not self._was_connected:
            connections[
                alias
            ].close()  # opened by the checks, and a slot less for others
        work = MigrateTask(
            migrate=lambda: self._migrate(*args, **options),
            command="migrate",
            full_target=not options["app_label"],
            require_ready=False,
            fake=options["fake"],
            report=report_to(self.stderr),
        )
        try:
            self._lead(
                InitializationOptions(work, alias, mode="self", follow_success=False)
            )
        except CommandError as exc:
            failure = exc.__cause__
            if type(failure) is InitializationFailed and failure.__cause__ is not None:
                raise failure.__cause__ from None  # what Django's own `migrate` would raise
            raise
        except Interrupted as exc:
            sys.exit(exc.exit_code)

    def _migrate(self, *args: Any, **options: Any) -> None:
        """Do what Django does, watched if a run of this thread is under way."""
        tracker = current_tracker(options["database"])
        # A `migrate` that a migration calls is a part of that migration.
        self._tracker = tracker if tracker and tracker.current is None else None
        super().handle(*args, **options)

    def _lead(self, request: InitializationOptions) -> None:
        with interruptible(), command_errors():
            Initializer(request).run()

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
        """Pass on to the run's tracker what Django says."""
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
