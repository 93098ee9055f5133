"""Report each migration of Django's `migrate` to the run that it belongs to."""

from __future__ import annotations

import io
from typing import Any

from django.core.management import BaseCommand
from django.core.management.commands.migrate import Command as DjangoMigrate
from django.db.migrations import Migration

from django_safe_init.core import cancellation
from django_safe_init.initialization.run_context import (
    MigrationListener,
    current_listener,
)


class TrackedMigrate:
    """A mixin of `migrate` commands, before the class of the command."""

    #: Read by `migrate_command.extends_ours`.
    reports_to_tracker = True
    _tracker: MigrationListener | None = None

    def track(self, alias: str) -> None:
        """Report the migrations of the following `handle` to the run that this thread leads."""
        tracker = current_listener(alias)
        # A `migrate` that a migration calls belongs to that migration.
        self._tracker = tracker if tracker and tracker.current is None else None

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
        # The next class is a `migrate` command.
        super().migration_progress_callback(action, migration, fake)  # type: ignore[misc]


def migrate_schema(
    alias: str,
    base: type[BaseCommand],
    options: dict[str, Any],
    *,
    stdout: Any = None,
    stderr: Any = None,
) -> None:
    """Run a `migrate` in the schema that is active.

    `base` is the command that a package with a schema for each tenant runs in each schema.
    `options` are the options of the package's own `migrate`. Django's options are passed on.
    """
    if issubclass(base, TrackedMigrate):  # the project named this package's command
        base = DjangoMigrate
    command_class: Any = type("SchemaMigrate", (TrackedMigrate, base), {})
    command: BaseCommand = command_class(stdout=stdout or io.StringIO(), stderr=stderr)
    parser = command.create_parser("manage.py", "migrate")
    known = {action.dest for action in parser._actions} - {"help", "version"}
    values = vars(parser.parse_args([]))
    values.update({name: options[name] for name in options if name in known})
    values.update(database=alias, skip_checks=True)
    command_class.track(command, alias)
    command.execute(**values)
