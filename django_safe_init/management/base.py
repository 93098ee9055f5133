"""Skeleton of the commands: signals, errors, exit codes and JSON."""

from __future__ import annotations

import contextlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from django_safe_init.core.signal_handling import Interrupted, interruptible
from django_safe_init.exceptions import SafeInitError
from django_safe_init.management.console import (
    PrintableStream,
    escape_unencodable,
    json_line,
    open_closed_streams,
    printable_uncaught_errors,
)

#: The help of `--database` where it may be given once.
DATABASE_HELP = (
    "Default: 'default' if SAFE_INIT's DATABASES has it, else all of DATABASES."
)


@contextlib.contextmanager
def command_errors() -> Iterator[None]:
    """Turn a `SafeInitError` into a `CommandError` with its exit code.

    Django prints a `CommandError` as one line, without a traceback.
    """
    try:
        yield
    except SafeInitError as exc:
        raise CommandError(str(exc), returncode=exc.exit_code) from exc


@contextlib.contextmanager
def exit_codes() -> Iterator[None]:
    """Turn errors into a `CommandError`, and a signal into `SystemExit` with 128 + n."""
    try:
        with interruptible(), command_errors():
            yield
    except Interrupted as exc:
        sys.exit(exc.exit_code)


class PrintableCommand(BaseCommand):
    """Command whose streams and uncaught errors are printable, whatever they quote."""

    stdout = PrintableStream()
    stderr = PrintableStream()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        open_closed_streams()
        super().__init__(*args, **kwargs)

    def run_from_argv(self, argv: list[str]) -> None:
        """Run the command as `manage.py` does."""
        escape_unencodable()
        with printable_uncaught_errors():
            super().run_from_argv(argv)


class SafeInitCommand(PrintableCommand, ABC):
    """Command about a database, whose errors and signals become exit codes."""

    requires_system_checks: list[str] = []

    def handle(self, **options: Any) -> None:
        """Call `run`, and exit with the code that it returns."""
        with exit_codes():
            code = self.run(options)
        if code:
            sys.exit(code)

    @abstractmethod
    def run(self, options: dict[str, Any]) -> int:
        """Do the command's work, and return its exit code."""


class JsonCommand(SafeInitCommand):
    """Command with the option `--json`, which prints an error as the JSON object, too."""

    def handle(self, **options: Any) -> None:
        """Call `run`, and exit with the code that it returns."""
        try:
            super().handle(**options)
        except CommandError as exc:
            if options["json"]:
                self.print_json(self.error_as_json(str(exc), options))
            raise

    @abstractmethod
    def error_as_json(self, error: str, options: dict[str, Any]) -> dict[str, Any]:
        """Return the JSON object of an error."""

    def print_json(self, value: dict[str, Any]) -> None:
        """Write the JSON object to standard output."""
        self.stdout.write(json_line(value))
