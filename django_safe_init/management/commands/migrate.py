"""`migrate`: Django's command under the leader lock, with recorded steps."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from inspect import Parameter, signature
from typing import Any, TypeGuard

from django.core.management import CommandError
from django.core.management.base import CommandParser
from django.core.management.commands.migrate import Command as DjangoMigrate
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.migrations.recorder import MigrationRecorder

from django_safe_init.backends import check_loaded, get_features
from django_safe_init.backends.tenants import Tenancy, Tenant, get_tenancy, is_tenanted
from django_safe_init.conf import effective_mode, get_settings
from django_safe_init.core.databases import check_not_empty, check_not_pool
from django_safe_init.core.deadline import Deadline
from django_safe_init.exceptions import ConfigurationError, InitializationFailed
from django_safe_init.initialization.check_failures import ChecksFailed, check_errors
from django_safe_init.initialization.initializer import (
    Initializer,
    retry_while_busy,
    wait_for_server,
)
from django_safe_init.initialization.migrate_command import (
    check_target,
    known_options,
    next_migrate,
)
from django_safe_init.initialization.plan import schemas_behind
from django_safe_init.initialization.run_context import current_listener, in_run
from django_safe_init.initialization.schemas.names import check_schemas
from django_safe_init.initialization.schemas.provisioning import provision
from django_safe_init.initialization.tracked_migrate import (
    TrackedMigrate,
    migrate_schema,
)
from django_safe_init.initialization.types import (
    InitializationOptions,
    MigrateTask,
    SchemaOptions,
)
from django_safe_init.management.base import command_errors, exit_codes
from django_safe_init.management.console import (
    escape_unencodable,
    open_closed_streams,
    printable_uncaught_errors,
    report_to,
)
from django_safe_init.management.results import schemas_migrated

#: Added by `execute` and by Django's `call_command`, whatever the parser knows.
_ADDED = frozenset({"database", "skip_checks"})
#: Options with which Django's `migrate` itself runs in each tenant's schema.
_WITHOUT_PLAN = ("app_label", "fake", "fake_initial", "prune", "run_syncdb")


class Command(TrackedMigrate, next_migrate()):  # type: ignore[misc]  # depends on settings
    """Overrides `migrate`: exactly one process migrates a database at a time."""

    #: The limit of all waiting, which begins in `execute`.
    _deadline: Deadline | None = None
    #: The system checks, if they failed before this process led.
    _failed_checks: Callable[[Deadline], None] | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        open_closed_streams()
        super().__init__(*args, **kwargs)

    def run_from_argv(self, argv: list[str]) -> None:
        """Run the command as `manage.py` does."""
        escape_unencodable()
        with printable_uncaught_errors():
            super().run_from_argv(argv)

    _output: str | None = None
    #: The options that the extended command's parser knows, if one was created.
    _known: frozenset[str] | None = None

    def create_parser(
        self, prog_name: str, subcommand: str, **kwargs: Any
    ) -> CommandParser:
        """Note which options the extended command knows: its `handle` may take no others."""
        parser: CommandParser = super().create_parser(prog_name, subcommand, **kwargs)
        self._known = frozenset(known_options(self, parser))
        return parser

    def execute(self, *args: Any, **options: Any) -> str | None:
        """Wait for the database server before Django's system checks, which may need it."""
        self._alias = alias = options.get("database") or DEFAULT_DB_ALIAS
        with command_errors():
            check_not_pool(alias)
            check_not_empty(alias)
            self._check_engine(alias)
            self._check_quorum(options)
        self._was_connected = connections[alias].connection is not None
        if self._is_protected(options) and not self._names_tenants(options):
            max_wait = get_settings().max_wait
            self._deadline = Deadline(max_wait)
            with exit_codes():
                wait_for_server(alias, report_to(self.stderr), max_wait)
        # Django's own code before `handle` needs the option, also if a package has dropped it.
        output: str | None = super().execute(*args, **{**options, "database": alias})
        return output

    def _check_engine(self, alias: str) -> None:
        """Raise `UnsupportedEngine` for an engine that Django cannot load, with the remedy."""
        if (
            not get_features(alias).is_loaded
            and effective_mode(get_settings()) != "off"
        ):
            check_loaded(alias)

    def _check_quorum(self, options: dict[str, Any]) -> None:
        """Raise `ConfigurationError` for django-syzygy's quorum, which could never be complete."""
        quorum = options.get("quorum") or 1
        if quorum == 1:
            return
        if current_listener(self._alias) or self._is_protected(options):
            raise ConfigurationError(
                f"No quorum of {quorum} for database {self._alias!r}: one process migrates under "
                "the leader lock, and the others wait for it, not inside `migrate`. Leave "
                "--quorum out."
            )

    def check(self, *args: Any, **kwargs: Any) -> None:
        """Run Django's system checks, and repeat a check that finds no free connection.

        Checks that fail are repeated by the leader, which records what they find: a check may
        refuse a database that another process is migrating, or has left half-migrated.
        """
        run = partial(super().check, *args, **kwargs)
        report = report_to(self.stderr)

        def check(deadline: Deadline) -> None:
            retry_while_busy(run, self._alias, report, deadline)

        with command_errors():
            try:
                with check_errors():
                    check(self._deadline or Deadline(None))
            except ChecksFailed as exc:
                if self._deadline is None:
                    raise exc.error from None
                self._failed_checks = check

    def handle(self, *args: Any, **options: Any) -> str | None:
        """Wait until this process leads, then run Django's `migrate`, and return its output."""
        self._alias = alias = options.get("database") or DEFAULT_DB_ALIAS
        tenancy = None if _only_looks(options) else self._tenancy()
        if tenancy is not None and self._provision(tenancy, options):
            return self._output
        if not self._is_protected(options):
            self._migrate(*args, **options)
            return self._output
        check_target(
            options.get("app_label"),
            options.get("migration_name"),
            run_syncdb=bool(options.get("run_syncdb")),
        )
        schemas = SchemaOptions()
        if tenancy is not None:
            schemas = self._schemas(tenancy, options)
        if not self._was_connected:
            # The checks, or the query for tenants, opened it, and another replica may need the
            # connection slot.
            connections[alias].close()
        task = MigrateTask(
            migrate=lambda: self._migrate(*args, **options),
            command="migrate",
            schemas=schemas,
            full_target=not options.get("app_label"),
            require_ready=False,
            fake=bool(options.get("fake")),
            target=_target(options),
            error_to_log=lambda error, cause: None if _is_raised(error) else cause,
            report=report_to(self.stderr),
        )
        initialization = InitializationOptions(
            task,
            alias,
            mode="self",
            deadline=self._deadline,
            follow_success=False,
            run_checks=self._failed_checks,
            checks_passed=not (options.get("skip_checks") or self._failed_checks),
        )
        try:
            with exit_codes():
                outcome = Initializer(initialization).run()
        except CommandError as exc:
            failure = exc.__cause__
            if _has_own_cause(failure):
                raise (failure.__cause__ or exc) from None
            raise
        if outcome.schemas_migrated and options["verbosity"] > 0:
            self.stdout.write(f"{schemas_migrated(outcome.schemas_migrated)}.")
        return self._output

    def _migrate(self, *args: Any, **options: Any) -> None:
        """Run Django's `migrate`, tracked if this thread is in a run."""
        if is_tenanted() and self._has_runs():
            tenancy = get_tenancy(self._alias)
            if tenancy is not None and _only_looks(options):
                self._look(tenancy, options)
            else:
                self._migrate_active_schema(options)
            return
        self.track(self._alias)
        self._output = super().handle(*args, **self._wanted_by_handle(options))

    def _migrate_active_schema(self, options: dict[str, Any]) -> None:
        """Migrate the schema that is active: the run goes from schema to schema itself."""
        tenancy = get_tenancy(self._alias)
        migrate_schema(
            self._alias,
            DjangoMigrate if tenancy is None else tenancy.base_migrate(),
            options,
            stdout=self.stdout._out,
            stderr=self.stderr._out,
        )

    def _migrate_new_schema(self, tenancy: Tenancy, options: dict[str, Any]) -> None:
        """Migrate the schema of a new tenant, which may be a clone.

        A clone with data has the records of its original, and nothing of a later migration.
        """
        is_clone = tenancy.fakes_clones and not options.get("app_label")
        if (
            is_clone
            and MigrationRecorder(connections[self._alias]).applied_migrations()
        ):
            options = {**options, "fake": False}
        self._migrate_active_schema(options)

    def _look(self, tenancy: Tenancy, options: dict[str, Any]) -> None:
        """Show the plan of the shared schema or of the named ones, and how many lack migrations.

        With `--check`, exit with 1 if one of them does.
        """
        selection = tenancy.selection(options)
        with command_errors():
            check_schemas(tenancy, selection.schemas or ())
        behind = ""
        if selection.schemas is None and not options.get("app_label"):
            errors = (
                command_errors() if self._called_from_command_line else nullcontext()
            )
            with errors:
                behind = schemas_behind(self._alias)
        names = [tenancy.shared_schema] if selection.shared else []
        lacking = [
            self._lacks(tenancy, name, options)
            for name in (*names, *(selection.schemas or ()))
        ]
        if behind:
            self.stdout.write(f"{behind}.")
        if options.get("check_unapplied") and (behind or any(lacking)):
            sys.exit(1)

    def _lacks(self, tenancy: Tenancy, schema: str, options: dict[str, Any]) -> bool:
        """Run the command in one schema; return True if `--check` finds pending migrations."""
        tenant = Tenant(schema, tenancy.kind_of(schema))
        with tenancy.active(connections[self._alias], tenant):
            try:
                self._migrate_active_schema(options)
            except SystemExit as exc:
                return bool(exc.code)
        return False

    def _schemas(self, tenancy: Tenancy, options: dict[str, Any]) -> SchemaOptions:
        """Return the work in schemas that the options of the package's command name."""
        selection = tenancy.selection(options)
        has_own_work = any(options.get(name) for name in _WITHOUT_PLAN)
        return SchemaOptions(
            shared=selection.shared,
            only=selection.schemas,
            jobs=tenancy.jobs(options),
            migrate=partial(self._migrate_active_schema, options)
            if has_own_work
            else None,
        )

    def _has_runs(self) -> bool:
        """Return False if the package's own commands do all the work, as in a project's tests."""
        with command_errors():
            mode = effective_mode(get_settings())
        return mode != "off" and get_features(self._alias).has_lock

    def _tenancy(self) -> Tenancy | None:
        return get_tenancy(self._alias) if self._has_runs() else None

    def _names_tenants(self, options: dict[str, Any]) -> bool:
        """Return True if code names schemas, as the packages do for a tenant that is created."""
        tenancy = get_tenancy(self._alias)
        if tenancy is None or self._called_from_command_line:
            return False
        return tenancy.names_schemas(options)

    def _provision(self, tenancy: Tenancy, options: dict[str, Any]) -> bool:
        """Migrate the schemas that code names, without a run; return False if it names none."""
        if not self._names_tenants(options):
            return False
        selection = tenancy.selection(options)
        if selection.shared or not selection.schemas:
            return False
        migrate = partial(self._migrate_new_schema, tenancy, options)
        with exit_codes():
            for schema in selection.schemas:
                provision(tenancy, schema, migrate, report_to(self.stderr))
        return True

    def _wanted_by_handle(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return the options, except `database` and `skip_checks` if `handle` refuses them.

        The extended command may add options of its own in `execute`.
        """
        added = _ADDED.difference(self._known or _ADDED)
        parameters = signature(super().handle).parameters.values()
        if any(each.kind is Parameter.VAR_KEYWORD for each in parameters):
            return options
        refused = added.difference(each.name for each in parameters)
        return {name: options[name] for name in options if name not in refused}

    def _is_protected(self, options: dict[str, Any]) -> bool:
        if _only_looks(options) or in_run(self._alias):
            return False
        return self._has_runs()


def _only_looks(options: dict[str, Any]) -> bool:
    return bool(options.get("plan") or options.get("check_unapplied"))


def _target(options: dict[str, Any]) -> tuple[str, str] | None:
    """Return the app and the migration that the command names; None for all migrations."""
    app, name = options.get("app_label"), options.get("migration_name")
    return (app, name or "") if app else None


def _has_own_cause(failure: BaseException | None) -> TypeGuard[InitializationFailed]:
    """Return True if the failure's cause is an error that Django's `migrate` raises.

    An error of the run's own sessions is none.
    """
    return type(failure) is InitializationFailed and failure.run is not None


def _is_raised(failure: BaseException) -> bool:
    """Return True if the command raises the failure's cause, and Python prints its traceback.

    Django prints the text of a `CommandError`, and no error tracker learns of it.
    """
    cause = failure.__cause__
    is_printed = isinstance(cause, Exception) and not isinstance(cause, CommandError)
    return _has_own_cause(failure) and is_printed
