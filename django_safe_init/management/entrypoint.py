"""Command line of an entrypoint: signals, one JSON object, and `-- COMMAND`."""

from __future__ import annotations

import contextlib
import sys
from abc import ABC, abstractmethod
from typing import Any, NoReturn

from django.core.management.base import CommandError, CommandParser

from django_safe_init.core.process import seconds_since_start
from django_safe_init.core.signal_handling import Interrupted, interruptible
from django_safe_init.core.text import printable_traceback
from django_safe_init.management.base import PrintableCommand
from django_safe_init.management.console import JSONOutput, json_line
from django_safe_init.management.exec import exec_command, split_argv


class EntrypointCommand(PrintableCommand, ABC):
    """Command that is replaced by `-- COMMAND` when it succeeds.

    With `--json` it prints exactly one object, also for errors of its arguments. A subclass
    sets `reported` as soon as it prints its own object.
    """

    # The leader runs them, once the database server answers.
    requires_system_checks: list[str] = []
    #: The program after `--`, and its arguments.
    next_command: list[str] = []
    reported = False
    #: Seconds that the process took until the command began, if it is the main program.
    seconds_of_loading = 0.0
    _json: JSONOutput | None = None

    def create_parser(
        self, prog_name: str, subcommand: str, **kwargs: Any
    ) -> CommandParser:
        """Return a parser that raises its errors if they must become JSON."""
        parser = super().create_parser(
            prog_name, subcommand, allow_abbrev=False, **kwargs
        )
        if self._json is not None:
            parser.called_from_command_line = False
        return parser

    def run_from_argv(self, argv: list[str]) -> None:
        """Run the command, and then become the command after `--`."""
        self.seconds_of_loading = seconds_since_start()
        own, self.next_command = split_argv(argv)
        with contextlib.ExitStack() as stack:
            if "--json" in own:
                self._json = stack.enter_context(JSONOutput())
            stack.enter_context(interruptible())
            try:
                super().run_from_argv(own)
            except CommandError as exc:  # with --traceback, or raised by the parser
                if not self.reported:
                    self._exit(2, "usage", exc)
                self.stderr.write(printable_traceback(exc))
                sys.exit(exc.returncode)
            except Interrupted as exc:  # before or after the work on the databases
                self._exit(exc.exit_code, "interrupted", exc)
        if self.next_command:
            exec_command(self.next_command)

    def execute(self, *args: Any, **options: Any) -> str | None:
        """Run the command; an error that Django finds in the options exits with 2, too."""
        try:
            output: str | None = super().execute(*args, **options)
            return output
        except CommandError as exc:
            if not self.reported:
                self._report_error("usage", exc)
                exc.returncode = 2
            raise

    @abstractmethod
    def error_as_json(self, result: str, error: str) -> dict[str, Any]:
        """Return the JSON object of an error that prevented all work."""

    def print_json(self, value: dict[str, Any]) -> None:
        """Write the JSON object to standard output."""
        if self._json is not None:
            self._json.emit(value)
        else:
            self.stdout.write(json_line(value))

    def _exit(self, code: int, result: str, exc: BaseException) -> NoReturn:
        if self._json is None:
            self.stderr.write(str(exc))
        self._report_error(result, exc)
        sys.exit(code)

    def _report_error(self, result: str, exc: BaseException) -> None:
        if self._json is not None and not self.reported:
            self.print_json(self.error_as_json(result, str(exc)))
