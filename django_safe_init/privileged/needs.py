"""What an administrator still has to do, as anybody may read it in the server's catalogue."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from contextlib import closing

from django.db import Error, OperationalError, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from django_safe_init.conf import Settings
from django_safe_init.connections import make_wrapper
from django_safe_init.exceptions import MissingPrivilege
from django_safe_init.steps.step import PrivilegedContext, Step
from django_safe_init.text import one_line

COMMAND = "python manage.py safe_migrate --phase privileged"
_NOT_THERE = re.compile(r'(database|role) ".*" does not exist')


def context_of(
    step: Step,
    alias: str,
    connection: BaseDatabaseWrapper,
    target: Callable[[], BaseDatabaseWrapper],
) -> PrivilegedContext:
    """What the step is called with."""
    logger = logging.getLogger(f"django_safe_init.steps.{step.label}")
    return PrivilegedContext(alias, connection, logger, target)


def undone(
    steps: Iterable[Step],
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


def _is_done(step: Step, context: PrivilegedContext) -> bool:
    assert step.done is not None  # a privileged step has one
    try:
        return bool(step.done(context))
    except Error as exc:
        # For example a role that the catalogue was asked about and does not know.
        context.logger.info("not done: %s", one_line(exc))
        return False


def missing_privileged(
    alias: str, steps: tuple[Step, ...], settings: Settings
) -> list[str] | None:
    """The labels of the steps that are not done; None if the server does not answer.

    All of them, if the database or the role that would initialize it is not there yet.
    """
    wrapper = make_wrapper(alias, settings.direct.get(alias))
    with closing(wrapper):
        try:
            wrapper.ensure_connection()
        except OperationalError as exc:
            there = not _NOT_THERE.search(str(exc))
            return None if there else [step.label for step in steps]
        return undone(steps, alias, wrapper, lambda: wrapper)


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


def require_privileged(alias: str, steps: tuple[Step, ...], settings: Settings) -> bool:
    """Raise `MissingPrivilege` unless all of them are done; False if that cannot be seen."""
    missing = missing_privileged(alias, steps, settings)
    if missing:
        raise MissingPrivilege(
            f"This build needs what only an administrator may do: {', '.join(missing)}. "
            f"Run where PRIVILEGED_DATABASE is configured: {COMMAND}"
        )
    return missing is not None
