"""`safe_migrate`: the entrypoint of a replica."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, TextIO, cast

from django.core.management.base import CommandParser, OutputWrapper, SystemCheckError
from django.db import DEFAULT_DB_ALIAS, connections

from django_safe_init.backends import check_driver, get_features
from django_safe_init.backends.tenants import get_tenancy
from django_safe_init.conf import effective_mode, get_settings
from django_safe_init.core.cancellation import check as check_cancellation
from django_safe_init.core.databases import check_alias
from django_safe_init.core.deadline import Deadline, check_timeout
from django_safe_init.core.signal_handling import Interrupted
from django_safe_init.core.text import one_line
from django_safe_init.exceptions import (
    ConfigurationError,
    SafeInitError,
    SchemasFailed,
)
from django_safe_init.initialization.initializer import Initializer, retry_while_busy
from django_safe_init.initialization.migrate_command import run_migrate
from django_safe_init.initialization.types import (
    InitializationOptions,
    MigrateTask,
    Outcome,
    SchemaOptions,
)
from django_safe_init.management.console import format_plan, report_to
from django_safe_init.management.entrypoint import EntrypointCommand
from django_safe_init.management.exec import check_command
from django_safe_init.management.parallel import prefixed_stream, run_parallel
from django_safe_init.management.results import Result, as_json, command_error

if TYPE_CHECKING:
    from django_safe_init.initialization.plan import PlannedStep

logger = logging.getLogger("django_safe_init")


class Command(EntrypointCommand):
    """Initializes the database exactly once, however many replicas start at the same time."""

    help = (
        "Waits for the database server, then makes sure that every migration of this build is "
        "applied: one process of all applies them, the others wait for it. "
        "With `-- COMMAND ...`, becomes that command afterwards."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options."""
        parser.usage = "%(prog)s [options] [-- COMMAND ...]"
        add = parser.add_argument
        add(
            "--database",
            action="append",
            metavar="ALIAS",
            help="Default: SAFE_INIT's DATABASES.",
        )
        add(
            "--jobs",
            type=int,
            default=1,
            metavar="N",
            help="How many databases and schemas of tenants to initialize side by side.",
        )
        add(
            "--schema",
            action="append",
            metavar="NAME",
            help="A schema of a tenant, to migrate only that. Default: all.",
        )
        add(
            "--canary",
            type=int,
            default=0,
            metavar="N",
            help="Migrate N schemas of tenants first, the others only if these succeed.",
        )
        add(
            "--mode",
            choices=("self", "external"),
            help="Who initializes: this process or not.",
        )
        add(
            "--phase",
            choices=("schema", "privileged"),
            default="schema",
            help="The administrator's work, or everybody's.",
        )
        add("--timeout", type=float, metavar="SECONDS", help="How long to wait in all.")
        flag = partial(add, action="store_true")
        flag(
            "--force",
            help="Run even if this build is initialized, and fail on every finding.",
        )
        add(
            "--rerun",
            action="append",
            default=[],
            metavar="APP.NAME",
            help="Run an unfinished non-atomic migration again.",
        )
        add(
            "--resume",
            action="append",
            default=[],
            metavar="APP.NAME:N",
            help="Continue a half-done migration with its operation N.",
        )
        flag(
            "--stop-at-first",
            help="Begin no other schema of a tenant after the first failure.",
        )
        flag("--plan", help="Show what would be done; change nothing.")
        flag("--check", help="Exit with 1 unless ready; change nothing.")
        flag("--json", help="Print one JSON object, and nothing else.")
        flag("--skip-checks", help="Skip system checks.")

    def handle(self, **options: Any) -> None:
        """Initialize the databases, then report the results."""
        aliases = _aliases(options)
        if options["schema"] and not options["database"]:
            # The other databases have no part in it.
            aliases = [each for each in aliases if get_tenancy(each)] or aliases
        self._several = len(aliases) > 1
        results = self._initialize(aliases, options)
        results.sort(key=lambda each: (each.severity, each.outcome.error is None))
        self.reported = True
        if options["json"]:
            self.print_json(as_json(results))
        if results[0].code:
            raise command_error(results)
        is_quiet = options["verbosity"] == 0 or options["plan"] or options["json"]
        for result in results:
            if result.outcome.error:
                self._report(result.outcome.database)(result.outcome.error)
            elif not is_quiet:
                self.stdout.write(result.summary)

    def error_as_json(self, result: str, error: str) -> dict[str, Any]:
        """Return the outcome of a command that did not reach its databases."""
        return as_json([Result(Outcome(result, "none", DEFAULT_DB_ALIAS, error=error))])

    def _initialize(self, aliases: list[str], options: dict[str, Any]) -> list[Result]:
        initialize = partial(self._initialize_one, options=options)
        results: list[Result] = []
        # A database with tenants forks processes, so no thread may run beside it.
        alone = aliases
        if options["jobs"] > 1 and self._several:
            alone = [alias for alias in aliases if get_tenancy(alias) is not None]
        for alias in alone:
            results.append(initialize(alias))
            if results[-1].outcome.result == "interrupted":
                return results
        others = [alias for alias in aliases if alias not in alone]
        return [*results, *run_parallel(others, options["jobs"], initialize)]

    def _initialize_one(self, alias: str, options: dict[str, Any]) -> Result:
        initializer = Initializer(self._initialization_options(alias, options))
        try:
            check_cancellation()
            self._check_usage(options)
            self._check_driver(alias, options)
            return Result(self._run(initializer, options))
        except SafeInitError as exc:
            outcome = initializer.outcome(exc.result, str(exc))
            code = 0 if self._goes_on_after(exc) else exc.exit_code
            return Result(outcome, code, exc)
        except SystemCheckError as exc:
            return Result(initializer.outcome("usage", str(exc)), 2)
        except Interrupted as exc:
            return Result(initializer.outcome("interrupted", str(exc)), exc.exit_code)
        except Exception as exc:
            if not (options["json"] or self._several):
                raise
            # The reader of the JSON needs an object, and the other databases their turn.
            logger.exception("%s: unexpected error", alias)
            text = f"{type(exc).__name__}: {one_line(exc)}"
            return Result(initializer.outcome("failed", text), 1)

    def _run(self, initializer: Initializer, options: dict[str, Any]) -> Outcome:
        if options["phase"] == "privileged":
            self._run_privileged(initializer.database, options)
        elif options["plan"] or options["check"]:
            self._inspect(initializer.database, options)
        else:
            return initializer.run()
        return initializer.outcome("ready")

    def _goes_on_after(self, error: SafeInitError) -> bool:
        """Return True if the command after `--` may serve, although tenants' schemas failed."""
        if not self.next_command or not isinstance(error, SchemasFailed):
            return False
        return get_settings().tenant_readiness == "shared"

    def _check_usage(self, options: dict[str, Any]) -> None:
        check_command(self.next_command)
        check_timeout(options["timeout"])
        for name in ("rerun", "resume"):
            if options[name] and self._several:
                raise ConfigurationError(
                    f"--{name} is about one database: name it with --database."
                )
        if options["jobs"] < 1:
            raise ConfigurationError("--jobs must be 1 or more.")
        if options["canary"] < 0:
            raise ConfigurationError("--canary must be 0 or more.")
        self._check_schemas(options)
        if self.next_command and options["phase"] == "privileged":
            raise ConfigurationError(
                "--phase privileged is an administrator's: no command can follow it."
            )
        if self.next_command and options["plan"]:
            raise ConfigurationError(
                "--plan changes nothing, so no command can follow it."
            )

    def _check_schemas(self, options: dict[str, Any]) -> None:
        tenanted = [
            alias for alias in _aliases(options) if get_tenancy(alias) is not None
        ]
        for name in ("schema", "canary", "stop_at_first"):
            if options[name] and not tenanted:
                raise ConfigurationError(
                    f"--{name.replace('_', '-')} is about schemas of tenants, and no database "
                    "here has them. Leave the option out."
                )

        if not options["schema"]:
            return
        if self.next_command:
            raise ConfigurationError(
                "--schema migrates a part of the database, so no command can follow it."
            )
        mode = effective_mode(get_settings(), options["mode"])
        if mode != "self":
            raise ConfigurationError(
                f"--schema migrates under the leader lock, and with the mode {mode!r} this process "
                "takes none. Run it with --mode self, or run `migrate` with the schema."
            )

    def _check_driver(self, alias: str, options: dict[str, Any]) -> None:
        settings = get_settings()
        check_alias(alias)
        if effective_mode(settings, options["mode"]) != "off":
            check_driver(alias, settings)

    def _initialization_options(
        self, alias: str, options: dict[str, Any]
    ) -> InitializationOptions:
        task = MigrateTask(
            migrate=lambda: self._migrate(alias, options),
            command="safe_migrate",
            rerun=tuple(options["rerun"]),
            resume=tuple(options["resume"]),
            report=self._report(alias),
            schemas=_schema_options(options),
            full_target=not options["schema"],
            require_ready=not options["schema"],
        )
        return InitializationOptions(
            task,
            alias,
            mode=options["mode"],
            timeout=options["timeout"],
            force=options["force"],
            follow_success=not options["schema"],
            seconds_of_loading=self.seconds_of_loading,
            run_checks=None if options["skip_checks"] else partial(self._check, alias),
        )

    def _check(self, alias: str, deadline: Deadline) -> None:
        """Run Django's system checks, and close the connection that they may open."""
        report = self._report(alias)
        retry_while_busy(lambda: self.check(databases=[alias]), alias, report, deadline)
        connections[alias].close()

    def _inspect(self, alias: str, options: dict[str, Any]) -> None:
        """Show the plan and check the status, as the options say."""
        from django_safe_init.initialization import plan

        plan.check_privileged(alias, options["mode"], options["timeout"])
        if options["plan"]:
            plan.wait_for_login(alias, self._report(alias), options["timeout"])
            migrate = partial(self._migrate, alias, options)
            with plan.readable_records(alias):
                retry_while_busy(
                    lambda: plan.read_plan(alias, migrate, options["timeout"]),
                    alias,
                    self._report(alias),
                    Deadline(options["timeout"]),
                )
            steps = plan.planned_steps(alias)
            if steps is not None:
                self._print_plan(steps, options)
        if options["check"]:
            plan.check_ready(alias, name_all=options["verbosity"] > 1)

    def _run_privileged(self, alias: str, options: dict[str, Any]) -> None:
        report = self._report(alias)
        if not get_features(alias).supports_privileged_steps:
            report("no server, so nothing is privileged")
            return
        # Imported here to keep the start of a replica fast.
        from django_safe_init.initialization import plan
        from django_safe_init.privileged.runner import PrivilegedStepRunner

        runner = PrivilegedStepRunner(alias, options["timeout"], report)
        if not (options["plan"] or options["check"]):
            runner.run()
            return
        steps = plan.planned_privileged_steps(runner)
        if options["plan"]:
            self._print_plan(steps, options)
        if options["check"]:
            plan.check_done(steps, name_all=options["verbosity"] > 1)

    def _print_plan(self, steps: list[PlannedStep], options: dict[str, Any]) -> None:
        for line in format_plan(steps):
            self._output(options).write(line)

    def _migrate(self, alias: str, options: dict[str, Any]) -> None:
        with self._stream(alias, options) as stdout:
            run_migrate(
                alias,
                plan=options["plan"],
                verbosity=options["verbosity"],
                stdout=stdout,
                stderr=self.stderr._out,
                no_color=options["no_color"],
                force_color=options["force_color"],
            )

    def _stream(
        self, alias: str, options: dict[str, Any]
    ) -> AbstractContextManager[TextIO]:
        stream = cast(TextIO, self._output(options)._out)
        return prefixed_stream(stream, alias) if self._several else nullcontext(stream)

    def _output(self, options: dict[str, Any]) -> OutputWrapper:
        return self.stderr if options["json"] else self.stdout

    def _report(self, alias: str) -> Callable[[str], None]:
        return report_to(self.stderr, f"{alias}: " if self._several else "")


def _schema_options(options: dict[str, Any]) -> SchemaOptions:
    only = options["schema"]
    return SchemaOptions(
        shared=not only,
        only=tuple(dict.fromkeys(only)) if only else None,
        jobs=options["jobs"],
        canary=options["canary"],
        stop_at_first=options["stop_at_first"],
        force=options["force"],
    )


def _aliases(options: dict[str, Any]) -> list[str]:
    if options["database"]:
        return list(dict.fromkeys(options["database"]))
    try:
        return list(get_settings().databases)
    except ConfigurationError:
        return [DEFAULT_DB_ALIAS]  # initializing it raises that error again
