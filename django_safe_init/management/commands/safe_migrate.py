"""The entrypoint of a replica: be ready, then become the server."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NoReturn, TextIO, cast

from django.core.management.base import (
    BaseCommand,
    CommandError,
    CommandParser,
    OutputWrapper,
    SystemCheckError,
)
from django.db import DEFAULT_DB_ALIAS, connections

from django_safe_init.backends import get_features, privileged_steps
from django_safe_init.conf import effective_mode, get_settings
from django_safe_init.core.build import current_build
from django_safe_init.core.cancellation import check as check_interruption
from django_safe_init.core.databases import check_alias
from django_safe_init.core.deadline import Deadline, check_timeout
from django_safe_init.core.signal_handling import Interrupted, interruptible
from django_safe_init.core.text import one_line
from django_safe_init.exceptions import (
    ConfigurationError,
    InitializationFailed,
    LoginRefused,
    SafeInitError,
)
from django_safe_init.initialization.initializer import (
    Initializer,
    retry_while_busy,
    wait_for_server,
)
from django_safe_init.initialization.migrate_command import run_migrate
from django_safe_init.initialization.types import (
    InitializationOptions,
    MigrateTask,
    Outcome,
)
from django_safe_init.management.console import JSONOutput, report_to
from django_safe_init.management.exec import check_command, exec_command, split_argv

logger = logging.getLogger("django_safe_init")

#: Exit codes from the worst to the best, where several databases end differently.
WORST_FIRST = (2, 1, 5, 4, 3, 0)


class Command(BaseCommand):
    """Initializes the database exactly once, however many replicas start at the same time."""

    help = (
        "Waits for the database server, then makes sure that every migration of this build is "
        "applied: one process of all applies them, the others wait for it. "
        "With `-- COMMAND ...`, becomes that command afterwards."
    )
    # Run by us, after the server has answered and only if there is anything to do.
    requires_system_checks: list[str] = []
    _json: JSONOutput | None = None
    _command: list[str] = []
    #: Whether the databases have been dealt with, and what became of them is reported.
    _has_ended = False

    def add_arguments(self, parser: CommandParser) -> None:
        """The options."""
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
            help="How many databases to initialize side by side.",
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
        add(
            "--force",
            action="store_true",
            help="Run even if this build is initialized.",
        )
        add("--rerun", action="append", default=[], metavar="APP.NAME",
            help="Run an unfinished non-atomic migration again.")  # fmt: skip
        add(
            "--plan",
            action="store_true",
            help="Show what would be done; change nothing.",
        )
        add(
            "--check",
            action="store_true",
            help="Exit with 1 unless ready; change nothing.",
        )
        add(
            "--json",
            action="store_true",
            help="Print one JSON object, and nothing else.",
        )
        add("--skip-checks", action="store_true", help="Skip system checks.")

    def create_parser(
        self, prog_name: str, subcommand: str, **kwargs: Any
    ) -> CommandParser:
        """A parser whose errors are exceptions if they have to become JSON."""
        parser = super().create_parser(
            prog_name, subcommand, allow_abbrev=False, **kwargs
        )
        if self._json is not None:
            parser.called_from_command_line = False
        return parser

    def run_from_argv(self, argv: list[str]) -> None:
        """Run from the command line: with signals, JSON, and `-- COMMAND`."""
        own, command = split_argv(argv)
        self._command = command
        with contextlib.ExitStack() as stack:
            if "--json" in own:
                self._json = stack.enter_context(JSONOutput())
            stack.enter_context(interruptible())
            try:
                super().run_from_argv(own)
            except CommandError as exc:  # under --traceback, or from the parser
                if not self._has_ended:
                    self._exit(2, "usage", exc)
                self.stderr.write("".join(traceback.format_exception(exc)))
                sys.exit(exc.returncode)
            except Interrupted as exc:  # where no database has reported it
                self._exit(exc.exit_code, "interrupted", exc)
        if command:
            exec_command(command)

    def execute(self, *args: Any, **options: Any) -> str | None:
        """Do it; what Django itself finds wrong with the options is a usage error like others."""
        try:
            output: str | None = super().execute(*args, **options)
            return output
        except CommandError as exc:
            if not self._has_ended:
                self._report_error("usage", exc)
                exc.returncode = 2
            raise

    def _exit(self, code: int, result: str, exc: BaseException) -> NoReturn:
        if self._json is None:
            self.stderr.write(str(exc))
        self._report_error(result, exc)
        sys.exit(code)

    def _report_error(self, result: str, exc: BaseException) -> None:
        """The JSON object, if one is wanted and there was none yet."""
        if self._json is not None and not self._has_ended:
            self._emit([Outcome(result, "none", DEFAULT_DB_ALIAS, error=str(exc))])

    def handle(self, **options: Any) -> None:
        """Initialize the databases, then report."""
        aliases = _aliases(options)
        self._errors: dict[str, Exception] = {}
        self._labelled = len(aliases) > 1
        ended = self._initialize(aliases, options)
        ended.sort(key=lambda pair: _badness(pair[1]))
        code = ended[0][1]
        self._has_ended = True
        if options["json"]:
            self._emit([outcome for outcome, _ in ended])
        if code:
            failed = [outcome for outcome, _ in ended if outcome.error]
            text = "\n".join(f"{each.database}: {each.error}" for each in failed)
            cause = self._errors.get(ended[0][0].database)
            raise CommandError(text, returncode=code) from cause  # for --traceback
        if options["verbosity"] > 0 and not (options["plan"] or options["json"]):
            for outcome, _ in ended:
                self.stdout.write(_summary(outcome))

    def _initialize(
        self, aliases: list[str], options: dict[str, Any]
    ) -> list[tuple[Outcome, int]]:
        """One database after the other, or several at a time."""
        if options["jobs"] > 1 and self._labelled:
            # Here, because a replica with one database should not pay for it.
            from django_safe_init.management.parallel import run_parallel

            return run_parallel(
                aliases, options["jobs"], partial(self._one, options=options)
            )
        ended: list[tuple[Outcome, int]] = []
        for alias in aliases:
            ended.append(self._one(alias, options))
            if ended[-1][0].result == "interrupted":
                break
        return ended

    def _one(self, alias: str, options: dict[str, Any]) -> tuple[Outcome, int]:
        initializer = Initializer(self._request(alias, options))
        try:
            check_interruption()
            self._check_usage(options)
            if options["phase"] == "privileged":
                return self._privileged(initializer, options), 0
            if options["plan"] or options["check"]:
                return self._look(initializer, options), 0
            return initializer.run(), 0
        except SafeInitError as exc:
            self._errors[alias] = exc
            return initializer.outcome(exc.result, str(exc)), exc.exit_code
        except SystemCheckError as exc:
            return initializer.outcome("usage", str(exc)), 2
        except Interrupted as exc:
            return initializer.outcome("interrupted", str(exc)), exc.exit_code
        except Exception as exc:
            if not (options["json"] or self._labelled):
                raise
            # Whoever reads the JSON gets one object whatever happens, and the other databases
            # are initialized; the log has the rest.
            logger.exception("%s: unexpected error", alias)
            text = f"{type(exc).__name__}: {one_line(exc)}"
            return initializer.outcome("failed", text), 1

    def _check_usage(self, options: dict[str, Any]) -> None:
        check_command(self._command)
        check_timeout(options["timeout"])
        if options["rerun"] and self._labelled:
            raise ConfigurationError(
                "--rerun is about one database: name it with --database."
            )
        if options["jobs"] < 1:
            raise ConfigurationError("--jobs must be 1 or more.")
        if self._command and options["phase"] == "privileged":
            raise ConfigurationError(
                "--phase privileged is an administrator's: no command can follow it."
            )
        if self._command and options["plan"]:
            raise ConfigurationError(
                "--plan changes nothing, so no command can follow it."
            )

    def _request(self, alias: str, options: dict[str, Any]) -> InitializationOptions:
        work = MigrateTask(
            migrate=lambda: self._migrate(alias, options),
            command="safe_migrate",
            rerun=tuple(options["rerun"]),
            report=self._report(alias),
        )
        return InitializationOptions(
            work,
            alias,
            mode=options["mode"],
            timeout=options["timeout"],
            force=options["force"] or bool(options["rerun"]),
            on_lock_acquired=lambda: self._check(alias, options),
        )

    def _check(self, alias: str, options: dict[str, Any]) -> None:
        """Django's system checks, and then no connection kept that they may have opened."""
        if not options["skip_checks"]:
            report = self._report(alias)
            retry_while_busy(lambda: self.check(databases=[alias]), alias, report)
            connections[alias].close()

    def _report(self, alias: str) -> Callable[[str], None]:
        return report_to(self.stderr, f"{alias}: " if self._labelled else "")

    def _look(self, initializer: Initializer, options: dict[str, Any]) -> Outcome:
        alias = initializer.database
        self._require_privileged(alias, options)
        if options["plan"]:
            self._wait_for_server(alias, options)
            self._migrate(alias, {**options, "plan": True})
            self._plan_steps(alias, self.stderr if options["json"] else self.stdout)
        if options["check"]:
            self._require_ready(alias)
        return initializer.outcome("ready")

    def _require_privileged(self, alias: str, options: dict[str, Any]) -> None:
        """What would refuse the run refuses a look at it, too: nothing could be seen without it."""
        check_alias(alias)
        steps = privileged_steps(alias, current_build())
        mode = effective_mode(get_settings(), options["mode"])
        if steps and mode == "self":
            from django_safe_init.privileged.status import require_privileged

            deadline = Deadline(options["timeout"])
            require_privileged(alias, steps, get_settings(), deadline)

    def _wait_for_server(self, alias: str, options: dict[str, Any]) -> None:
        try:
            wait_for_server(alias, self._report(alias), options["timeout"])
        except LoginRefused as exc:
            from django_safe_init.privileged.status import add_hint

            if not privileged_steps(alias, current_build()):
                raise

            raise add_hint(exc) from exc

    def _privileged(self, initializer: Initializer, options: dict[str, Any]) -> Outcome:
        alias = initializer.database
        check_alias(alias)
        if not get_features(alias).supports_privileged_steps:
            self._report(alias)("no server, so nothing is privileged")
            return initializer.outcome("ready")
        # Here, because no replica of the application should pay for it.
        from django_safe_init.privileged.runner import PrivilegedStepRunner

        phase = PrivilegedStepRunner(alias, options["timeout"], self._report(alias))
        if not (options["plan"] or options["check"]):
            phase.run()
            return initializer.outcome("ready")
        missing = phase.plan()
        if options["plan"]:
            output = self.stderr if options["json"] else self.stdout
            output.write("Planned steps:" if missing else "  No planned steps.")
            for label in missing:
                output.write(f"{label}\n    privileged")
        if options["check"] and missing:
            raise InitializationFailed(f"not done: {', '.join(missing)}")
        return initializer.outcome("ready")

    def _plan_steps(self, alias: str, output: OutputWrapper) -> None:
        """The steps that come after the migrations, as Django shows its plan."""
        steps = current_build().steps_of(alias)
        if not steps or not get_features(alias).has_lock:
            return
        from django_safe_init.status import get_status

        pending = get_status(alias).pending
        due = [step for step in steps if step.label in pending or step.run == "always"]
        output.write("Planned steps:" if due else "  No planned steps.")
        for step in due:
            output.write(f"{step.label}\n    {step.run}, version {step.version}")

    def _require_ready(self, alias: str) -> None:
        from django_safe_init.status import get_status

        if get_features(alias).is_supported:
            status = get_status(alias)
            if not status.ready:
                count = len(status.pending)
                more = f"; {count} to apply" if count else ""
                raise InitializationFailed(f"not ready: {status.message}{more}")
            return
        try:
            run_migrate(alias, check_unapplied=True)
        except SystemExit as exc:
            raise InitializationFailed("not ready: migrations to apply") from exc

    def _migrate(self, alias: str, options: dict[str, Any]) -> None:
        output = self.stderr if options["json"] else self.stdout
        with self._stream(output, alias) as stdout:
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
        self, output: OutputWrapper, alias: str
    ) -> AbstractContextManager[TextIO]:
        stream = cast(TextIO, output._out)
        if not self._labelled:
            return contextlib.nullcontext(stream)
        from django_safe_init.management.parallel import prefixed_stream

        return prefixed_stream(stream, alias)

    def _emit(self, outcomes: list[Outcome]) -> None:
        """One JSON object; the worst outcome comes first."""
        value = outcomes[0].as_json()
        if len(outcomes) > 1:
            value = {
                "result": outcomes[0].result,
                "databases": [outcome.as_json() for outcome in outcomes],
            }
        if self._json is not None:
            self._json.emit(value)
        else:
            self.stdout.write(json.dumps(value))


def _aliases(options: dict[str, Any]) -> list[str]:
    if options["database"]:
        return list(dict.fromkeys(options["database"]))
    try:
        return list(get_settings().databases)
    except ConfigurationError:
        return [DEFAULT_DB_ALIAS]  # which then fails with that error


def _badness(code: int) -> int:
    """Signals first, then as in `WORST_FIRST`."""
    return WORST_FIRST.index(code) if code in WORST_FIRST else -1


def _summary(outcome: Outcome) -> str:
    applied = (
        f", {len(outcome.applied)} migrations applied"
        if outcome.role == "leader"
        else ""
    )
    role = "nothing to do" if outcome.role == "none" else outcome.role
    return (
        f"{outcome.database}: ready ({role}{applied}, {outcome.duration_seconds:.1f} s)"
    )
