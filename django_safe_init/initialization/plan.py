"""Plan of an initialization: its pending steps, read without changing the database."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, NamedTuple

from django.db import OperationalError, ProgrammingError

from django_safe_init.backends import (
    bounded_reads,
    get_backend_class,
    get_features,
    privileged_steps,
)
from django_safe_init.conf import effective_mode, get_settings
from django_safe_init.core.build import current_build
from django_safe_init.core.cancellation import sleep
from django_safe_init.core.databases import check_alias
from django_safe_init.core.deadline import Deadline
from django_safe_init.core.text import name_some
from django_safe_init.exceptions import InitializationFailed, LoginRefused, WaitTimeout
from django_safe_init.initialization.initializer import wait_for_server
from django_safe_init.status import get_status, open_reader, read_schemas

if TYPE_CHECKING:
    from django_safe_init.privileged.runner import PrivilegedStepRunner


_SECONDS_BETWEEN_READS = 0.5


class PlannedStep(NamedTuple):
    """Step that a run would do."""

    label: str
    #: Kind of the step, as text.
    detail: str


def check_privileged(alias: str, mode: str | None, timeout: float | None) -> None:
    """Raise `MissingPrivilege` if a run would refuse to start without privileged steps.

    `mode` and `timeout` are the options of `initialize`. Raises `ConfigurationError` for an
    unknown alias.
    """
    check_alias(alias)
    steps = privileged_steps(alias, current_build())
    if steps and effective_mode(get_settings(), mode) == "self":
        from django_safe_init.privileged.status import require_privileged

        require_privileged(alias, steps, get_settings(), Deadline(timeout))


def wait_for_login(
    alias: str, report: Callable[[str], None], timeout: float | None
) -> None:
    """Wait until the database server accepts the login of the alias.

    `report` takes the reason for each wait. Raises `DatabaseUnreachable`; a refused login names
    the command that creates the role, if the build has privileged steps.
    """
    try:
        wait_for_server(alias, report, timeout)
    except LoginRefused as exc:
        if not privileged_steps(alias, current_build()):
            raise
        from django_safe_init.privileged.status import add_hint

        raise add_hint(exc) from exc


@contextmanager
def readable_records(alias: str) -> Iterator[None]:
    """Raise `UnsafeConnection` if the block fails on a table of migrations that is not Django's.

    Any other error is raised as it is.
    """
    try:
        yield
    except ProgrammingError:
        get_status(alias)
        raise


def read_plan(alias: str, read: Callable[[], None], timeout: float | None) -> None:
    """Call `read` until no lock of another session makes it wait for long.

    `read` prints the plan as its last act, on Django's own connection. `timeout` is in seconds;
    None for the setting `MAX_WAIT`. Raises `WaitTimeout` after it, and after `WAIT_TIMEOUT`.
    """
    settings = get_settings()
    deadline = Deadline(settings.max_wait if timeout is None else timeout)
    patience = Deadline(deadline.clip(settings.wait_timeout))
    while True:
        try:
            with bounded_reads(alias):
                return read()
        except OperationalError as exc:
            if not get_backend_class(alias).is_locked(exc):
                raise
            if patience.passed():
                raise WaitTimeout(_table_lock_holders(alias)) from exc
        sleep(patience.clip(_SECONDS_BETWEEN_READS))


def _table_lock_holders(alias: str) -> str:
    settings = get_settings()
    with closing(open_reader(alias, settings, Deadline(0))) as reader:
        return reader.table_lock_holders()


def planned_steps(alias: str) -> list[PlannedStep] | None:
    """Return the registered steps that the next run would do, in their order.

    Return None if no step is registered for the alias, or if its engine has no leader lock.
    """
    steps = current_build().steps_of(alias)
    if not steps or not get_features(alias).has_lock:
        return None
    pending = get_status(alias).pending
    return [
        PlannedStep(step.label, f"{step.run}, version {step.version}")
        for step in steps
        if step.label in pending or step.run == "always"
    ]


def schemas_behind(alias: str) -> str:
    """Return how many tenants' schemas lack migrations, with the first names; empty if none.

    Raises the errors of `get_status`.
    """
    settings = get_settings()
    with closing(open_reader(alias, settings, Deadline(0))) as reader:
        found = read_schemas(alias, reader)
    return found.sentence if found else ""


def planned_privileged_steps(runner: PrivilegedStepRunner) -> list[PlannedStep]:
    """Return the pending privileged steps, read with the administrator's credentials."""
    return [PlannedStep(label, "privileged") for label in runner.plan()]


def check_done(steps: Sequence[PlannedStep], *, name_all: bool = False) -> None:
    """Raise `InitializationFailed` if a step is pending; it names the first or all."""
    if steps:
        labels = _names([step.label for step in steps], name_all)
        raise InitializationFailed(f"not done: {labels}")


def check_ready(alias: str, *, name_all: bool = False) -> None:
    """Raise `InitializationFailed` unless the database is ready for this build, and all tenants.

    The message names the first pending migrations and steps, or all of them.
    """
    status = get_status(alias)
    if not status.complete:
        names = _names(status.pending, name_all)
        more = f"; {len(status.pending)} to apply: {names}" if names else ""
        start = "not done" if status.ready else "not ready"
        raise InitializationFailed(f"{start}: {status.message}{more}")


def _names(names: Sequence[str], name_all: bool) -> str:
    return ", ".join(names) if name_all else name_some(names)
