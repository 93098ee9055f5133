"""Wait for the initialization of a database whose engine has no leader lock."""

from __future__ import annotations

import random
from contextlib import closing

from django_safe_init.backends import get_backend
from django_safe_init.backends.base.context import Context
from django_safe_init.core.cancellation import sleep
from django_safe_init.core.deadline import Deadline
from django_safe_init.core.states import State
from django_safe_init.exceptions import DatabaseUnreachable, WaitTimeout
from django_safe_init.initialization.types import Outcome, Progress
from django_safe_init.status import Status, read_status

#: The pause between two reads, in seconds. No leader tells that it has finished.
_PAUSE = (1.0, 1.5)


def wait_until_ready(context: Context, progress: Progress) -> Outcome:
    """Return once another process has applied this build's migrations.

    Each applied migration is progress. Raises `WaitTimeout` after `WAIT_TIMEOUT` without
    progress, and `DatabaseUnreachable` after `CONNECT_ATTEMPTS` reads without an answer.
    """
    progress.machine.transition_to(State.CONNECTING)
    try:
        _wait(context, progress)
    except BaseException:
        progress.machine.transition_to(State.ERROR)
        raise
    return progress.ready(None)


def _wait(context: Context, progress: Progress) -> None:
    pending: int | None = None
    patience = Deadline(context.settings.wait_timeout)
    failures = 0
    while True:
        try:
            status = _read(context)
            failures = 0
        except DatabaseUnreachable as exc:
            failures += 1
            if failures >= context.settings.connect_attempts:
                raise
            progress.report(f"waiting for the server: {exc}")
        else:
            if status.ready:
                return
            if len(status.pending) != pending:
                pending = len(status.pending)
                patience = Deadline(context.settings.wait_timeout)
                progress.report(f"waiting for another process: {pending} to apply")
        _check_patience(context, patience, pending)
        sleep(random.uniform(*_PAUSE))


def _read(context: Context) -> Status:
    with closing(get_backend(context).reader()) as reader:
        return read_status(context.alias, reader)


def _check_patience(context: Context, patience: Deadline, pending: int | None) -> None:
    if not (patience.passed() or context.deadline.passed()):
        return
    applied = "it has not answered" if pending is None else f"{pending} to apply"
    raise WaitTimeout(
        f"Gave up waiting for database {context.alias!r}: {applied}, and its engine does not "
        "show whether another process works. Run `migrate` in one process."
    )
