"""Compare a database's schema with the models of this build.

May use models, the migration state and an introspection. Must not write, take a lock or run
an engine's SQL.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from django.apps import apps
from django.db import connections

from django_safe_init.backends import check_driver, get_backend
from django_safe_init.backends.base.context import Context
from django_safe_init.backends.base.introspection import BaseIntrospection
from django_safe_init.backends.tenants import Tenant, get_tenancy
from django_safe_init.conf import get_settings
from django_safe_init.core.build import Build, current_build
from django_safe_init.core.databases import check_alias
from django_safe_init.core.deadline import Deadline
from django_safe_init.core.findings import Finding, FindingKind, management_command_line
from django_safe_init.core.records import (
    ConnectionEnded,
    TablesLocked,
    TablesUnreadable,
)
from django_safe_init.core.text import one_line
from django_safe_init.exceptions import (
    DatabaseUnreachable,
    UnsafeConnection,
    WaitTimeout,
)
from django_safe_init.validation.classify import apps_ahead, compare
from django_safe_init.validation.model_schema import Table, tables_of

logger = logging.getLogger("django_safe_init")

#: The number of errors that a summary quotes.
_MAX_QUOTED = 3
#: The number of findings that are logged.
_MAX_LOGGED = 20


@dataclass(frozen=True)
class ValidationReport:
    """The findings of one validation of one database."""

    database: str
    #: The number of tables that were compared; 0 while a migration is unapplied.
    tables: int
    findings: tuple[Finding, ...]

    @property
    def schema(self) -> tuple[Finding, ...]:
        """Return the findings about the schema, without unapplied migrations."""
        return tuple(
            each
            for each in self.findings
            if each.kind is not FindingKind.UNAPPLIED_MIGRATION
        )

    def against(
        self, baseline: Collection[str], strict: Collection[str]
    ) -> ValidationReport:
        """Return the report of a run, in which findings of the baseline are warnings.

        Kinds in `strict` stay errors.
        """
        return replace(
            self,
            findings=tuple(_judged(each, baseline, strict) for each in self.findings),
        )

    @property
    def errors(self) -> tuple[Finding, ...]:
        """Return the findings about the schema that fail a run."""
        return tuple(each for each in self.schema if each.is_error)

    def passes(self, *, strict: bool = False) -> bool:
        """Return True if nothing is an error or, when strict, nothing was found."""
        return not any(strict or each.is_error for each in self.findings)

    def as_json(self) -> dict[str, Any]:
        """Return the report as a dict for JSON."""
        return {
            "database": self.database,
            "valid": self.passes(),
            "tables": self.tables,
            "findings": [each.as_json() for each in self.findings],
        }

    @property
    def summary(self) -> str:
        """Return the first errors and the command that lists all of them."""
        quoted = " ".join(each.message for each in self.errors[:_MAX_QUOTED])
        more = len(self.errors) - _MAX_QUOTED
        rest = f" And {more} more." if more > 0 else ""
        command = management_command_line("safe_init_validate", self.database)
        return f"{quoted}{rest} How to repair it: {command}"


def validate_database(database: str, report: Callable[[str], None]) -> ValidationReport:
    """Validate the database with the project's settings, on a separate connection.

    Write nothing, take no lock and do not wait for the database server. `report` receives the
    reason of a refused connection. Raise `DatabaseUnreachable`, `WaitTimeout` (a migration has
    locked the tables), `UnsafeConnection` (the tables cannot be read), `MissingPrivilege`,
    `ConfigurationError` or `UnsupportedEngine`.
    """
    check_alias(database)
    # The schema editor must use the alias too, and must not wait for a free connection.
    settings = replace(get_settings(), direct={}, wait_timeout=0)
    build = current_build()
    check_driver(database, settings)
    context = Context(database, build, settings, Deadline(0), report)
    try:
        with (
            _shared_schema(database),
            closing(get_backend(context).introspection()) as introspection,
        ):
            return validate(database, introspection, build, settings.validate)
    except TablesLocked as exc:
        raise WaitTimeout(
            f"The tables of {database!r} are locked at the moment, probably by a migration: "
            f"{one_line(exc)}. Try again when it is done."
        ) from exc
    except TablesUnreadable as exc:
        raise UnsafeConnection(
            f"The records of the database {database!r} cannot be read: {one_line(exc)}. "
            "Compare the columns, types and rights of the table of migrations."
        ) from exc
    except ConnectionEnded as exc:
        raise DatabaseUnreachable(
            f"The connection to {database!r} ended: {one_line(exc)}"
        ) from exc


@contextmanager
def _shared_schema(alias: str) -> Iterator[None]:
    """Let the block use the shared schema of a database with a schema for each tenant."""
    tenancy = get_tenancy(alias)
    if tenancy is None:
        yield
        return
    with tenancy.active(connections[alias], Tenant(tenancy.shared_schema)):
        yield


def validate(
    alias: str,
    introspection: BaseIntrospection,
    build: Build,
    levels: Mapping[str, str],
) -> ValidationReport:
    """Compare the database of the introspection with the models and migrations of the build.

    `levels` is the setting `VALIDATE`. While a migration is unapplied, the models are not
    compared, because any table may be missing.
    """
    recorded = introspection.recorded_migrations()
    unapplied = build.pending(frozenset(recorded))
    tables: list[Table] = []
    findings = [_unapplied(name, alias) for name in unapplied]
    if not unapplied:
        tables = tables_of(alias, apps.get_models(include_auto_created=True))
        ahead = apps_ahead(recorded, build)
        findings += compare(alias, introspection, tables, levels, ahead)
    findings += _issues(introspection, levels)
    return ValidationReport(alias, len(tables), tuple(findings))


def _judged(
    finding: Finding, baseline: Collection[str], strict: Collection[str]
) -> Finding:
    if finding.key not in baseline or finding.kind in strict or not finding.is_error:
        return finding
    message = f"{finding.message} It was so before this run."
    return replace(finding, level="warn", message=message)


def log_findings(alias: str, findings: Iterable[Finding]) -> None:
    """Log the first findings with their repair, errors first.

    All are warnings in the log: the run that errors fail is logged as one error.
    """
    ordered = sorted(findings, key=lambda each: not each.is_error)
    more = len(ordered) - _MAX_LOGGED
    for finding in ordered[:_MAX_LOGGED]:
        logger.warning("Validation of %s: %s", alias, finding)
    if more > 0:
        command = management_command_line("safe_init_validate", alias)
        logger.warning("Validation of %s: %s more. List them: %s", alias, more, command)


def _unapplied(name: str, alias: str) -> Finding:
    return Finding(
        FindingKind.UNAPPLIED_MIGRATION,
        "error",
        name,
        None,
        f"The migration {name} is not applied.",
        (management_command_line("safe_migrate", alias),),
    )


def _issues(
    introspection: BaseIntrospection, levels: Mapping[str, str]
) -> Iterator[Finding]:
    for kind, name, message, repair in introspection.issues():
        if levels[kind] != "off":
            repairs = (repair,) if repair else ()
            yield Finding(
                kind, levels[kind], name, None, message, repairs, automatic=bool(repair)
            )
