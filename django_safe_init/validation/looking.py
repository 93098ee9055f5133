"""Validation from outside: of a database that nobody initializes just now."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

from django_safe_init import backends
from django_safe_init.conf import get_settings
from django_safe_init.core.build import current_build
from django_safe_init.core.databases import check_alias
from django_safe_init.core.deadline import Deadline
from django_safe_init.core.records import ConnectionEnded, TablesLocked
from django_safe_init.core.text import one_line
from django_safe_init.exceptions import DatabaseUnreachable, WaitTimeout
from django_safe_init.validation import ValidationReport, validate


def validate_database(database: str, report: Callable[[str], None]) -> ValidationReport:
    """Validate the database by the settings, on a connection of its own.

    It writes nothing, takes no lock and does not wait for the server; `report` takes the reason
    if it is refused. Raises `DatabaseUnreachable`, `WaitTimeout` (a migration has locked the
    tables), `MissingPrivilege`, `ConfigurationError` or `UnsupportedEngine`.
    """
    check_alias(database)
    # As the inspector itself: the way there is that of the alias, and nobody waits.
    settings = replace(get_settings(), direct={}, wait_timeout=0)
    introspection = backends.open_introspection(database, settings, Deadline(0), report)
    try:
        with closing(introspection):
            return validate(database, introspection, current_build(), settings.validate)
    except TablesLocked as exc:
        raise WaitTimeout(
            f"The tables of {database!r} are locked at the moment, probably by a migration: "
            f"{one_line(exc)}. Try again when it is done."
        ) from exc
    except ConnectionEnded as exc:
        raise DatabaseUnreachable(
            f"The connection to {database!r} ended: {one_line(exc)}"
        ) from exc
