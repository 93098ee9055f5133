"""`safe_init_validate`: compare the schema with this build's models, in CI or after a restore."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser

from django_safe_init.conf import get_settings
from django_safe_init.core.text import printable
from django_safe_init.initialization.repair import (
    automatic_statements,
    repair_database,
)
from django_safe_init.management.base import JsonCommand
from django_safe_init.management.console import confirm, format_findings, report_to
from django_safe_init.validation import ValidationReport, validate_database


class Command(JsonCommand):
    """Compares databases with this build's models; only `--repair` writes or takes a lock."""

    help = (
        "Compares the database with what this build's models need, and shows how to repair "
        "what is wrong. Exit code: 0 nothing wrong, or only warnings; 1 errors, or a repair that "
        "failed, 2 usage, 3 locked, 4 unreachable, 5 lock lost."
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
        add(
            "--repair",
            action="store_true",
            help="Show the statements that rebuild indexes and add missing indexes and "
            "constraints, and run them after confirmation.",
        )
        add(
            "--noinput",
            "--no-input",
            action="store_false",
            dest="interactive",
            help="Do not ask before --repair.",
        )

    def run(self, options: dict[str, Any]) -> int:
        """Validate the databases and print the findings; return 1 if they are errors."""
        reports: list[ValidationReport] = []
        self._reports = reports
        for alias in options["database"] or get_settings().databases:
            reports.append(validate_database(alias, report_to(self.stderr)))
            if options["repair"] and self._repair(reports[-1], options):
                reports[-1] = validate_database(alias, report_to(self.stderr))
        if options["json"]:
            self.print_json(self._as_json(error=None))
        else:
            for report in reports:
                lines = format_findings(report, show_all=options["verbosity"] > 1)
                self.stdout.write("\n".join(lines))
        passed = all(report.passes(strict=options["strict"]) for report in reports)
        return 0 if passed else 1

    def _repair(self, report: ValidationReport, options: dict[str, Any]) -> bool:
        """Run the statements after confirmation; return False if no statement is needed."""
        alias, statements = report.database, automatic_statements(report.findings)
        # Standard output has the JSON object.
        output = self.stderr if options["json"] else self.stdout
        if not statements:
            output.write(f"{alias}: --repair has nothing to do", style_func=str)
            return False
        lines = [f"{alias}: --repair runs these statements:"]
        lines += [f"    {printable(each)}" for each in statements]
        output.write("\n".join(lines), style_func=str)
        if options["interactive"]:
            confirm("Run them now?", "Nothing was repaired", output)
        repair_database(
            alias,
            statements,
            lambda line: output.write(f"{alias}: {printable(line)}", style_func=str),
        )
        return True

    def error_as_json(self, error: str, options: dict[str, Any]) -> dict[str, Any]:
        """Return the JSON object with the databases that were validated before the error."""
        return self._as_json(error)

    def _as_json(self, error: str | None) -> dict[str, Any]:
        databases = [report.as_json() for report in self._reports]
        return {"databases": databases, "error": error}
