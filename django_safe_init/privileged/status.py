"""Find the pending privileged steps in PostgreSQL's catalog, with any role."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from contextlib import closing

from django.db import Error, InterfaceError, OperationalError, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from django_safe_init.backends.postgresql.bounded_reads import limit_reads
from django_safe_init.backends.postgresql.connect import create_direct_wrapper
from django_safe_init.backends.postgresql.project_connection import plain_rows
from django_safe_init.conf import Settings
from django_safe_init.core.deadline import Deadline
from django_safe_init.core.step import PrivilegedContext, StepDefinition
from django_safe_init.core.text import name_some, one_line
from django_safe_init.exceptions import LoginRefused, MissingPrivilege

COMMAND = "python manage.py safe_migrate --phase privileged"
_IS_ADMINISTRATOR = """
    SELECT rolsuper OR rolcreaterole FROM pg_catalog.pg_roles
    WHERE rolname OPERATOR(pg_catalog.=) current_user
"""
_DOES_NOT_EXIST = re.compile(r'(database|role) ".*" does not exist')


def context_of(
    step: StepDefinition,
    alias: str,
    connection: BaseDatabaseWrapper,
    target: Callable[[], BaseDatabaseWrapper],
) -> PrivilegedContext:
    """Return the argument of the step's functions."""
    logger = logging.getLogger(f"django_safe_init.steps.{step.label}")
    return PrivilegedContext(alias, connection, logger, target)


def pending(
    steps: Iterable[StepDefinition],
    alias: str,
    connection: BaseDatabaseWrapper,
    target: Callable[[], BaseDatabaseWrapper],
) -> list[str]:
    """Return the labels of the steps that are not done."""
    return [
        step.label
        for step in steps
        if not _is_done(step, context_of(step, alias, connection, target))
    ]


def _is_done(step: StepDefinition, context: PrivilegedContext) -> bool:
    try:
        return step.is_done(context)
    except Error as exc:
        if _is_no_answer(exc):
            raise
        # E.g. a query of `pg_has_role` about a role that does not exist.
        context.logger.info("not done: %s", one_line(exc))
        return False


def _is_no_answer(error: Error) -> bool:
    """Return True unless PostgreSQL answered that an object does not exist."""
    is_silent = isinstance(error, (OperationalError, InterfaceError))
    return is_silent and not _DOES_NOT_EXIST.search(str(error))


def pending_privileged(
    alias: str,
    steps: tuple[StepDefinition, ...],
    settings: Settings,
    seconds: float | None = None,
) -> list[str] | None:
    """Return the labels of the pending steps; None if PostgreSQL does not answer.

    Return all labels if the database, or the role that initializes it, does not exist.
    `seconds` limits the wait for a connection; the default is `CONNECT_TIMEOUT`.
    """
    seconds = settings.connect_timeout if seconds is None else seconds
    wrapper = create_direct_wrapper(
        alias, settings.direct.get(alias), connect_timeout=seconds
    )
    with closing(wrapper):
        try:
            wrapper.ensure_connection()
            return [step.label for step in steps if not _is_done_soon(step, wrapper)]
        except (OperationalError, InterfaceError) as exc:
            if _is_no_answer(exc):
                return None
            return [step.label for step in steps]


def _is_done_soon(step: StepDefinition, wrapper: BaseDatabaseWrapper) -> bool:
    """Return True if the step is done; a step whose check waits for a lock counts as not done.

    The limits of the check belong to a transaction, so a pooler gives them to no other client.
    """
    context = context_of(step, wrapper.alias, wrapper, lambda: wrapper)
    wrapper.set_autocommit(False)
    try:
        limit_reads(wrapper)
        return _is_done(step, context)
    finally:
        wrapper.rollback()
        wrapper.set_autocommit(True)


def is_administrator(alias: str) -> bool:
    """Return True if the role of the alias is a superuser or may create roles.

    Return False if PostgreSQL does not answer, because commands that need it report that.
    """
    try:
        [(found,)] = plain_rows(connections[alias], _IS_ADMINISTRATOR)
    except (Error, OSError):  # a pool raises the second one
        return False
    return bool(found)


def require_privileged(
    alias: str,
    steps: tuple[StepDefinition, ...],
    settings: Settings,
    deadline: Deadline,
) -> bool:
    """Raise `MissingPrivilege` if a step is pending; return False if PostgreSQL does not answer."""
    seconds = deadline.clip(settings.connect_timeout)
    labels = pending_privileged(alias, steps, settings, seconds)
    if labels:
        raise MissingPrivilege(
            f"This build needs what only an administrator may do: {name_some(labels)}. "
            f"Run where PRIVILEGED_DATABASE is configured: {COMMAND}"
        )
    return labels is not None


def add_hint(refusal: LoginRefused) -> LoginRefused:
    """Return the error with the command of the privileged phase added.

    PostgreSQL rejects a role that does not exist like a wrong password.
    """
    return LoginRefused(
        f"{refusal} If the role is not there yet, it is an administrator's to make: {COMMAND}"
    )
