"""Is the schema what this build's models need? Asked before a run may call itself ready."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from django.apps import apps

from django_safe_init.backends.base.introspection import BaseIntrospection
from django_safe_init.core.build import Build
from django_safe_init.core.findings import Finding, FindingKind, management_command_line
from django_safe_init.validation.classify import apps_ahead, compare
from django_safe_init.validation.model_schema import Table, tables_of

logger = logging.getLogger("django_safe_init")

#: So many are named in one sentence.
_NAMED = 3


@dataclass(frozen=True)
class ValidationReport:
    """What was looked at, and what is wrong with it."""

    database: str
    #: How many tables of models were compared; none while a migration is unapplied.
    tables: int
    findings: tuple[Finding, ...]

    @property
    def schema(self) -> tuple[Finding, ...]:
        """What is wrong with what is there, unapplied migrations left out."""
        return tuple(
            each
            for each in self.findings
            if each.kind is not FindingKind.UNAPPLIED_MIGRATION
        )

    @property
    def errors(self) -> tuple[Finding, ...]:
        """What is wrong with what is there, and must not be."""
        return tuple(each for each in self.schema if each.is_error)

    def passes(self, *, strict: bool = False) -> bool:
        """Whether nothing is wrong that must not be; if strict, whether nothing is wrong."""
        return not any(strict or each.is_error for each in self.findings)

    def as_json(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {
            "database": self.database,
            "valid": self.passes(),
            "tables": self.tables,
            "findings": [each.as_json() for each in self.findings],
        }

    @property
    def summary(self) -> str:
        """The errors in a sentence or some, and where to see the rest."""
        named = " ".join(each.message for each in self.errors[:_NAMED])
        more = len(self.errors) - _NAMED
        rest = f" And {more} more." if more > 0 else ""
        command = management_command_line("safe_init_validate", self.database)
        return f"{named}{rest} How to repair it: {command}"


def validate(
    alias: str,
    introspection: BaseIntrospection,
    build: Build,
    levels: Mapping[str, str],
) -> ValidationReport:
    """Compare a database with this build's models; `levels` is the setting `VALIDATE`.

    The models are judged only once every migration is applied: before, anything may be missing.
    """
    recorded = introspection.recorded_migrations()
    unapplied = sorted(build.migrations.difference(recorded))
    tables: list[Table] = []
    findings = [_unapplied(name, alias) for name in unapplied]
    if not unapplied:
        tables = tables_of(alias, apps.get_models(include_auto_created=True))
        beyond = apps_ahead(recorded, build)
        findings += compare(alias, introspection, tables, levels, beyond)
    findings += _defects(introspection, levels)
    return ValidationReport(alias, len(tables), tuple(findings))


def log_findings(alias: str, findings: Iterable[Finding]) -> None:
    """Log each finding with its repair, as loud as its level."""
    for finding in findings:
        if finding.is_error:
            logger.error("Validation of %s: %s", alias, finding)
        else:
            logger.warning("Validation of %s: %s", alias, finding)


def _unapplied(name: str, alias: str) -> Finding:
    return Finding(
        FindingKind.UNAPPLIED_MIGRATION,
        "error",
        name,
        None,
        f"The migration {name} is not applied.",
        (management_command_line("safe_migrate", alias),),
    )


def _defects(
    introspection: BaseIntrospection, levels: Mapping[str, str]
) -> Iterator[Finding]:
    for kind, name, message, repair in introspection.issues():
        if levels[kind] != "off":
            repairs = (repair,) if repair else ()
            yield Finding(kind, levels[kind], name, None, message, repairs)
