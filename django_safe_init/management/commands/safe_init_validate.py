"""Is the schema what this build's models need? For CI, and after a restore."""

from __future__ import annotations

import json
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from django_safe_init.conf import get_settings
from django_safe_init.core.signal_handling import Interrupted, interruptible
from django_safe_init.exceptions import SafeInitError
from django_safe_init.management.console import format_findings, report_to
from django_safe_init.validation import ValidationReport, validate_database


class Command(BaseCommand):
    """Compares databases with this build's models; writes nothing and takes no lock."""

    help = (
        "Compares the database with what this build's models need, and shows how to repair "
        "what is wrong. Exit code: 0 nothing wrong, or only warnings; 1 errors, 2 usage, "
        "3 locked, 4 unreachable."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        """The options."""
        add = parser.add_argument
        add(
            "--database",
            action="append",
            metavar="ALIAS",
            help="May be given more than once. Default: SAFE_INIT's DATABASES.",
        )
        add("--json", action="store_true", help="Print one JSON object.")
        add(
            "--strict",
            action="store_true",
            help="Exit with 1 for a warning, too.",
        )

    def handle(self, **options: Any) -> None:
        """Show what is wrong, and exit by it."""
        found: list[ValidationReport] = []
        try:
            with interruptible():
                for alias in options["database"] or get_settings().databases:
                    found.append(validate_database(alias, report_to(self.stderr)))
        except Interrupted as exc:
            sys.exit(exc.exit_code)
        except SafeInitError as exc:
            if options["json"]:
                self._print_json(found, str(exc))
            raise CommandError(str(exc), returncode=exc.exit_code) from exc
        if options["json"]:
            self._print_json(found, None)
        else:
            for each in found:
                self.stdout.write("\n".join(format_findings(each)))
        if not all(each.passes(strict=options["strict"]) for each in found):
            sys.exit(1)

    def _print_json(self, found: list[ValidationReport], error: str | None) -> None:
        value = {"databases": [each.as_json() for each in found], "error": error}
        self.stdout.write(json.dumps(value))
