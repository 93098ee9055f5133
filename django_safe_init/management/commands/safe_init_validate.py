"""`safe_init_validate`: compare the schema with this build's models, in CI or after a restore."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser

from django_safe_init.conf import get_settings
from django_safe_init.management.base import JsonCommand
from django_safe_init.management.console import format_findings, report_to
from django_safe_init.validation import ValidationReport, validate_database


class Command(JsonCommand):
    """Compares databases with this build's models; writes nothing and takes no lock."""

    help = (
        "Compares the database with what this build's models need, and shows how to repair "
        "what is wrong. Exit code: 0 nothing wrong, or only warnings; 1 errors, 2 usage, "
        "3 locked, 4 unreachable."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options."""
        add = parser.add_argument
        add(
            "--database",
            action="append",
            metavar="ALIAS",
            help="May be given more than once. Default: SAFE_INIT's DATABASES.",
        )
        add("--json", action="store_true", help="Print one JSON object.")
        add("--strict", action="store_true", help="Exit with 1 for a warning, too.")

    def run(self, options: dict[str, Any]) -> int:
        """Validate the databases and print the findings; return 1 if they are errors."""
        reports: list[ValidationReport] = []
        self._reports = reports
        for alias in options["database"] or get_settings().databases:
            reports.append(validate_database(alias, report_to(self.stderr)))
        if options["json"]:
            self.print_json(self._as_json(error=None))
        else:
            for report in reports:
                lines = format_findings(report, show_all=options["verbosity"] > 1)
                self.stdout.write("\n".join(lines))
        passed = all(report.passes(strict=options["strict"]) for report in reports)
        return 0 if passed else 1

    def error_as_json(self, error: str, options: dict[str, Any]) -> dict[str, Any]:
        """Return the JSON object with the databases that were validated before the error."""
        return self._as_json(error)

    def _as_json(self, error: str | None) -> dict[str, Any]:
        databases = [report.as_json() for report in self._reports]
        return {"databases": databases, "error": error}
