"""Define a step, and decide from the recorded steps whether it is due."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from asgiref.sync import async_to_sync
from django.db import router
from django.db.backends.base.base import BaseDatabaseWrapper

from django_safe_init.core.text import one_line
from django_safe_init.exceptions import ConfigurationError

#: When a step runs again: never, in each run of a leader, when its fingerprint changes.
RUNS = ("once", "always", "on_change")
#: Which process runs a step: the leader, or `safe_migrate --phase privileged`.
PHASES = ("schema", "privileged")
#: The outcome of a step that succeeded.
DONE = "done"


@dataclass(frozen=True)
class StepContext:
    """The argument of a step's function."""

    #: The alias of the database.
    alias: str
    #: Django's connection to the database, which belongs to the run. Use it only in this thread.
    connection: BaseDatabaseWrapper
    #: A logger with the name of the step.
    logger: logging.Logger


@dataclass(frozen=True)
class PrivilegedContext(StepContext):
    """The argument of a privileged step's function and of its `done`.

    In the privileged phase `connection` is the administrator's, to the database that
    `PRIVILEGED_DATABASE` names. Other processes call only `done`, with a `connection` to the
    database that is initialized.
    """

    #: Returns the connection to the database that is initialized. Raises Django's
    #: `OperationalError` while the database does not exist.
    target: Callable[[], BaseDatabaseWrapper]


Function = Callable[[Any], Any]


class CompletedStep(NamedTuple):
    """The record of a step that a run completed."""

    name: str
    version: int
    fingerprint_text: str | None


@dataclass(frozen=True)
class StepDefinition:
    """A registered step."""

    app_label: str
    name: str
    function: Function
    version: int = 1
    run: str = "once"
    after: tuple[str, ...] = ()
    atomic: bool = True
    fingerprint: Callable[[], Any] | None = None
    phase: str = "schema"
    #: Returns True if a privileged step is done, according to PostgreSQL's catalog.
    done: Callable[[Any], bool] | None = None

    @property
    def label(self) -> str:
        """Return the displayed and recorded name, such as `shop.seed_currencies`."""
        return f"{self.app_label}.{self.name}"

    @property
    def predecessors(self) -> tuple[str, ...]:
        """Return the labels of the steps that run before; a bare name is in the same app."""
        return tuple(
            each if "." in each else f"{self.app_label}.{each}" for each in self.after
        )

    @cached_property
    def fingerprint_text(self) -> str | None:
        """Return the fingerprint as text; None for a step without one.

        Raise `ConfigurationError` if the project's fingerprint function fails.
        """
        if self.fingerprint is None:
            return None
        try:
            return str(self.fingerprint())
        except Exception as exc:
            raise ConfigurationError(
                f"The fingerprint of the step {self.label} cannot be found out: "
                f"{type(exc).__name__}: {one_line(exc)}"
            ) from exc

    @property
    def identity(self) -> str:
        """Return the part of the build's fingerprint that identifies the step."""
        return f"{self.label}:{self.version}:{self.run}:{self.fingerprint_text or ''}"

    @property
    def detail(self) -> dict[str, Any]:
        """Return the value of the column `detail` in the record of the step."""
        return {"version": self.version, "print": self.fingerprint_text}

    def belongs_to(self, alias: str) -> bool:
        """Return True if the routers allow migrations of the step's app in the database."""
        return bool(router.allow_migrate(alias, self.app_label))

    def call(self, context: StepContext) -> None:
        """Call the function of the step, which may be a coroutine function."""
        _call(self.function, context)

    def is_done(self, context: PrivilegedContext) -> bool:
        """Return True if `done` of the privileged step, possibly async, reports success."""
        assert self.done is not None  # the registry requires it of a privileged step
        return bool(_call(self.done, context))

    def is_satisfied_by(self, completed: Iterable[CompletedStep]) -> bool:
        """Return True if a run completed the step, at any time or in a newer build.

        Readiness depends on this, so an older build stays ready after a newer one has run.
        """
        return any(self._matches(each) for each in completed)

    def is_due(self, completed: Iterable[CompletedStep]) -> bool:
        """Return True if a leader must run the step; `completed` is newest first.

        Unlike `is_satisfied_by`, it is True for each step with `run="always"`, and for a step
        whose last completion had another fingerprint.
        """
        own = [each for each in completed if each.name == self.label]
        if self.run == "on_change":
            return not (own and self._matches(own[0]))
        return self.run == "always" or not self.is_satisfied_by(own)

    def _matches(self, completed: CompletedStep) -> bool:
        if completed.name != self.label:
            return False
        if self.run == "on_change":
            return (completed.version, completed.fingerprint_text) == (
                self.version,
                self.fingerprint_text,
            )
        return completed.version >= self.version


def completed_step(name: str, detail: Mapping[str, Any] | None) -> CompletedStep:
    """Return the record in a step's row, as any version of the package may have written it."""
    values = detail or {}
    return CompletedStep(name, int(values.get("version", 0)), values.get("print"))


def missing_steps(
    steps: Iterable[StepDefinition], completed: Iterable[CompletedStep]
) -> tuple[str, ...]:
    """Return the labels of the steps that the completed ones do not satisfy, in order."""
    records = list(completed)
    return tuple(step.label for step in steps if not step.is_satisfied_by(records))


def _call(function: Function, context: StepContext) -> Any:
    """Return the result of the function, awaited if it is awaitable."""
    result = function(context)
    if not inspect.isawaitable(result):
        return result

    async def wait() -> Any:
        return await result

    return async_to_sync(wait)()
