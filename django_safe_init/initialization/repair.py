"""Run the repairs of a validation, under the leader lock and outside any run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import cast

from django.db import DatabaseError

from django_safe_init.backends import get_backend, require_lock
from django_safe_init.backends.base.backend import LockingBackend
from django_safe_init.backends.base.context import Context
from django_safe_init.backends.base.run_session import ErrorKind, RunSession
from django_safe_init.conf import get_settings
from django_safe_init.core.build import current_build
from django_safe_init.core.databases import check_alias
from django_safe_init.core.deadline import Deadline
from django_safe_init.core.findings import Finding, FindingKind
from django_safe_init.core.text import message_of, printable, with_commands
from django_safe_init.exceptions import LockLost, SafeInitError, WaitTimeout
from django_safe_init.validation import validate


def automatic_statements(findings: Iterable[Finding]) -> list[str]:
    """Return the statements of the automatic repairs, in the order in which they run.

    The checks of older rows come last: a row that violates a constraint ends the repair, and must
    not keep another object from its repair.
    """
    first: list[str] = []
    checks: list[str] = []
    for finding in findings:
        if finding.automatic and finding.kind is FindingKind.NOT_VALID_CONSTRAINT:
            checks += finding.repair
        elif finding.automatic and finding.kind is FindingKind.MISSING_FOREIGN_KEY:
            first += finding.repair[:1]
            checks += finding.repair[1:]
        elif finding.automatic:
            first += finding.repair
    return first + checks


def repair_database(
    database: str, statements: Sequence[str], report: Callable[[str], None]
) -> None:
    """Run the statements that the database still needs.

    `statements` come from `automatic_statements`. `report` receives a line for each that is done.
    Raise `SafeInitError` for the first that fails, with the rest; `WaitTimeout` if another
    process leads; `LockLost` if the connection or the leader lock was lost; and the errors of a
    run.
    """
    check_alias(database)
    require_lock(database)
    settings = get_settings()
    deadline = Deadline(settings.wait_timeout)
    context = Context(database, current_build(), settings, deadline, report)
    backend = cast(LockingBackend, get_backend(context))  # require_lock has checked it
    backend.check()
    with backend.translated_errors(), _led_session(backend) as session:
        found = validate(
            database, session.introspection(), context.build, settings.validate
        )
        needed = automatic_statements(found.findings)
        wanted = [each for each in statements if each in needed]
        _run(database, session, wanted, report)


@contextmanager
def _led_session(backend: LockingBackend) -> Iterator[RunSession]:
    with (
        closing(backend.observer()) as observer,
        backend.leadership(observer) as lock,
    ):
        if lock is None:
            raise WaitTimeout(_led_by_another(backend))
        with backend.heartbeat(lock):
            backend.terminate_predecessors(lock)
            with closing(backend.open_run_session(lock)) as session:
                yield session


def _led_by_another(backend: LockingBackend) -> str:
    with backend.lock_holder() as holder:
        leader = printable(holder.lines()[0]) if holder else "another process leads"
    return (
        f"Nothing was repaired in database {backend.context.alias!r}: {leader}. "
        "Try again when it is done."
    )


def _run(
    database: str,
    session: RunSession,
    statements: Sequence[str],
    report: Callable[[str], None],
) -> None:
    done = 0
    try:
        with session.connections() as connection:
            for statement in statements:
                session.verify()
                session.repair(connection, statement)
                report(f"done: {statement}")
                done += 1
    except DatabaseError as exc:
        if session.classify(exc) is ErrorKind.LOST:
            raise LockLost(
                f"The connection of the repair was lost: {message_of(exc)}. "
                "Run safe_init_validate --repair again."
            ) from exc
        raise SafeInitError(_failure(database, statements, done, exc)) from exc


def _failure(
    database: str, statements: Sequence[str], done: int, error: Exception
) -> str:
    """Return the text about the first statement that failed, with the statements that are left."""
    cause = message_of(error)
    end = "" if cause.endswith((".", ";")) else "."
    text = (
        f"The repair of database {database!r} failed after {done} of {len(statements)} "
        f"statements: {cause}{end} Then run safe_init_validate --repair again. Not done:"
    )
    return with_commands(text, statements[done:])
