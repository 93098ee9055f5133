"""Describe system checks that failed before a run began, and record them as a run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from django.core.management.base import SystemCheckError

from django_safe_init.backends.base.run_session import RunSession
from django_safe_init.core.local_errors import is_local
from django_safe_init.core.records import CHECKS_PASSED, LostRuns, RunRow
from django_safe_init.core.states import State
from django_safe_init.core.text import (
    MAX_ERROR_LENGTH,
    one_line,
    shorten,
    stored_traceback,
)
from django_safe_init.exceptions import SafeInitError
from django_safe_init.initialization.types import Progress

#: A color of Django's `style.ERROR`.
_COLOR = re.compile(r"\x1b\[[0-9;]*m")
#: The headings of the messages that fail no check, as `BaseCommand.check` writes them.
_HARMLESS = re.compile(r"^(WARNINGS|INFOS|DEBUGS):$", re.MULTILINE)
#: The identifier of a message, as `CheckMessage.__str__` writes it after the object.
_IDENTIFIER = re.compile(r"^\S.*?: \(([^()\s]+)\) ", re.MULTILINE)
#: The object of a message: a model or a field with its app, or "?" for none.
_OBJECT = re.compile(r"^(\?|\w+(?:\.\w+)+): ", re.MULTILINE)
_HEADING = "SystemCheckError: System check identified some issues:\n"
_MAX_IDENTIFIERS_LENGTH = 1000

#: The failures that this process has recorded, by alias.
_recorded_here: dict[str, LostRuns] = {}


class ChecksFailed(Exception):
    """The system checks found errors, or a check raised `error`."""

    def __init__(self, error: Exception | SystemExit) -> None:
        super().__init__(str(error))
        self.error = error
        #: Equal in two processes whose checks failed in the same way.
        self.identifiers, self.text = _describe(error)

    @property
    def cause(self) -> Exception | SystemExit | None:
        """The error that a check raised; None for errors that the checks found.

        The traceback of the latter shows Django's own code only.
        """
        return None if isinstance(self.error, SystemCheckError) else self.error

    @property
    def traceback(self) -> str | None:
        """The traceback of `cause`, to be stored."""
        return None if self.cause is None else stored_traceback(self.cause)


@contextmanager
def check_errors() -> Iterator[None]:
    """Raise `ChecksFailed` for an error of the build.

    An error about the server, the arguments or only this process is raised as it is.
    """
    try:
        yield
    except SafeInitError:
        raise
    except (Exception, SystemExit) as exc:
        if is_local(exc):
            raise
        raise ChecksFailed(exc) from exc


def _describe(error: Exception | SystemExit) -> tuple[str, str]:
    """Return the identifiers and the text of the errors, without the checks' warnings."""
    if not isinstance(error, SystemCheckError):
        kind = type(error).__name__
        return kind, f"A system check raised {kind}: {one_line(error)}"
    text = _HARMLESS.split(_COLOR.sub("", str(error)))[0].removeprefix(_HEADING)
    return shorten(_identify(text), _MAX_IDENTIFIERS_LENGTH), shorten(
        f"System checks failed: {text}", MAX_ERROR_LENGTH
    )


def _identify(text: str) -> str:
    """Return the identifiers of the errors; their objects if no error has an identifier.

    The message of an error may differ between processes: it may quote a process id or a time.
    """
    identifiers = sorted(set(_IDENTIFIER.findall(text)))
    objects = sorted(set(_OBJECT.findall(text)))
    return ", ".join(identifiers) or f"no identifier: {', '.join(objects)}"


def is_shared_failure(run: RunRow, progress: Progress) -> bool:
    """Return True if the run's checks failed elsewhere while this process was starting.

    Replicas that start together load for different times. One that loads for longer did not wait
    for that run, and would repeat the checks of the others.
    """
    if progress.options.run_checks is None or run.checks in (None, CHECKS_PASSED):
        return False
    recorded = _recorded_here.get(progress.options.database)
    if recorded is not None and recorded.include(run.id, run.leader):
        return False
    seconds_since_end = run.age_seconds - run.duration_seconds
    return seconds_since_end < progress.seconds_since_start


def record_failure(
    session: RunSession, progress: Progress, failure: ChecksFailed
) -> str | None:
    """Record the failure as a run and return its outcome, or None if no run was opened.

    Raises the errors of the recorder.
    """
    recorder = session.recorder
    recorder.ensure_tables()
    was_ready = session.reader.read().ready
    recorder.checks = failure.identifiers
    if recorder.open_run(progress.options.task.command, progress.lost) is not None:
        return None
    recorded = _recorded_here.setdefault(progress.options.database, LostRuns())
    state = State.READY if was_ready else State.ERROR
    outcome = recorder.finish_failed_checks(
        state, failure.text, failure.traceback, recorded
    )
    recorded.runs.append(recorder.run_id)
    progress.run_id = recorder.run_id
    return outcome
