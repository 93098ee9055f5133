"""What an administrator still has to do, as anybody may read it in the server's catalogue."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from contextlib import closing

from django.db import Error, InterfaceError, OperationalError, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from django_safe_init.backends.postgresql.session import create_direct_wrapper
from django_safe_init.conf import Settings
from django_safe_init.core.deadline import Deadline
from django_safe_init.core.step import PrivilegedContext, StepDefinition, call
from django_safe_init.core.text import one_line
from django_safe_init.exceptions import LoginRefused, MissingPrivilege

COMMAND = "python manage.py safe_migrate --phase privileged"
_NOT_THERE = re.compile(r'(database|role) ".*" does not exist')


def context_of(
    step: StepDefinition,
    alias: str,
    connection: BaseDatabaseWrapper,
    target: Callable[[], BaseDatabaseWrapper],
) -> PrivilegedContext:
    """What the step is called with."""
    logger = logging.getLogger(f"django_safe_init.steps.{step.label}")
    return PrivilegedContext(alias, connection, logger, target)


def pending(
    steps: Iterable[StepDefinition],
    alias: str,
    connection: BaseDatabaseWrapper,
    target: Callable[[], BaseDatabaseWrapper],
) -> list[str]:
    """The labels of the steps that are not done."""
    return [
        step.label
        for step in steps
        if not _is_done(step, context_of(step, alias, connection, target))
    ]


def _is_done(step: StepDefinition, context: PrivilegedContext) -> bool:
    assert step.done is not None  # a privileged step has one
    try:
        return bool(call(step.done, context))
    except Error as exc:
        if _tells_nothing(exc):
            raise
        # For example a role that the catalogue was asked about and does not know.
        context.logger.info("not done: %s", one_line(exc))
        return False


def _tells_nothing(error: Error) -> bool:
    """Whether the server did not answer, as opposed to: what was asked for is not there."""
    is_silent = isinstance(error, (OperationalError, InterfaceError))
    return is_silent and not _NOT_THERE.search(str(error))


def pending_privileged(
    alias: str,
    steps: tuple[StepDefinition, ...],
    settings: Settings,
    seconds: float | None = None,
) -> list[str] | None:
    """The labels of the steps that are not done; None if the server does not answer.

    All of them, if the database or the role that would initialize it is not there yet.
    `seconds` is for how long to wait for a connection, if not `CONNECT_TIMEOUT`.
    """
    seconds = settings.connect_timeout if seconds is None else seconds
    wrapper = create_direct_wrapper(
        alias, settings.direct.get(alias), connect_timeout=seconds
    )
    with closing(wrapper):
        try:
            wrapper.ensure_connection()
            return pending(steps, alias, wrapper, lambda: wrapper)
        except (OperationalError, InterfaceError) as exc:
            there = not _NOT_THERE.search(str(exc))
            return None if there else [step.label for step in steps]


def is_administrator(alias: str) -> bool:
    """Whether the role of the alias is a superuser or may create roles.

    No, where the server does not answer: whoever needs it will say so.
    """
    query = (
        "SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user"
    )
    try:
        with connections[alias].cursor() as cursor:
            cursor.execute(query)
            return bool(cursor.fetchone()[0])
    except OperationalError:
        return False


def require_privileged(
    alias: str,
    steps: tuple[StepDefinition, ...],
    settings: Settings,
    deadline: Deadline,
) -> bool:
    """Raise `MissingPrivilege` unless all of them are done; False if that cannot be seen."""
    seconds = deadline.clip(settings.connect_timeout)
    missing = pending_privileged(alias, steps, settings, seconds)
    if missing:
        raise MissingPrivilege(
            f"This build needs what only an administrator may do: {', '.join(missing)}. "
            f"Run where PRIVILEGED_DATABASE is configured: {COMMAND}"
        )
    return missing is not None


def add_hint(refusal: LoginRefused) -> LoginRefused:
    """The same with the command: a role that is not there yet is refused like a wrong password."""
    return LoginRefused(
        f"{refusal} If the role is not there yet, it is an administrator's to make: {COMMAND}"
    )
