"""A step, and what is known of it in a database."""

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

#: When a step is done again: never, with each run of a leader, when its fingerprint changes.
RUNS = ("once", "always", "on_change")
#: Who does a step: the leader, or an administrator's `safe_migrate --phase privileged`.
PHASES = ("schema", "privileged")
#: How a step ends that need not be done again.
DONE = "done"


@dataclass(frozen=True)
class StepContext:
    """What a step works with."""

    #: The database.
    alias: str
    #: Django's connection to it, which belongs to the run; use it in this thread alone.
    connection: BaseDatabaseWrapper
    #: Named after the step.
    logger: logging.Logger


@dataclass(frozen=True)
class PrivilegedContext(StepContext):
    """What a step of the privileged phase works with.

    In that phase `connection` is an administrator's, to the database that `PRIVILEGED_DATABASE`
    names; elsewhere, where only `done` is called, it is the one to the database itself.
    """

    #: The connection to the database itself, which may not be there yet.
    target: Callable[[], BaseDatabaseWrapper]


Function = Callable[[Any], Any]


class CompletedStep(NamedTuple):
    """A step as a run has done it, with this version and, if it had one, this fingerprint."""

    name: str
    version: int
    print: str | None


@dataclass(frozen=True)
class StepDefinition:
    """A registered step. Equal steps of two builds need not be done twice."""

    app_label: str
    name: str
    function: Function
    version: int = 1
    run: str = "once"
    after: tuple[str, ...] = ()
    atomic: bool = True
    fingerprint: Callable[[], Any] | None = None
    phase: str = "schema"
    #: Whether a privileged step is done, by the server's catalogue.
    done: Callable[[Any], bool] | None = None

    @property
    def label(self) -> str:
        """As it is shown and recorded: `shop.seed_currencies`."""
        return f"{self.app_label}.{self.name}"

    @property
    def predecessors(self) -> tuple[str, ...]:
        """The labels of the steps that come first; a name alone is one of the same app."""
        return tuple(
            each if "." in each else f"{self.app_label}.{each}" for each in self.after
        )

    @cached_property
    def print(self) -> str | None:
        """The fingerprint as text; None unless the step depends on one.

        Raises `ConfigurationError` when it cannot be found out.
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
        """What makes a build another one when it changes."""
        return f"{self.label}:{self.version}:{self.run}:{self.print or ''}"

    @property
    def detail(self) -> dict[str, Any]:
        """What is recorded with it."""
        return {"version": self.version, "print": self.print}

    def belongs_to(self, alias: str) -> bool:
        """Whether it is done in that database: as the app's migrations are, by the routers."""
        return bool(router.allow_migrate(alias, self.app_label))

    def is_covered(self, records: Iterable[CompletedStep]) -> bool:
        """Whether the records show that it was done, be it long ago or by a newer build.

        That is what readiness asks: an old build stays ready when a newer one has gone on.
        """
        return any(self._covers(each) for each in records)

    def is_due(self, records: Iterable[CompletedStep]) -> bool:
        """Whether a leader has to do it; the records are newest first.

        It differs from `is_covered` where a leader is at work anyway: it does again what is
        done always, and what was done last with another fingerprint.
        """
        own = [each for each in records if each.name == self.label]
        if self.run == "on_change":
            return not (own and self._covers(own[0]))
        return self.run == "always" or not self.is_covered(own)

    def _covers(self, completed_step: CompletedStep) -> bool:
        if completed_step.name != self.label:
            return False
        if self.run == "on_change":
            return (completed_step.version, completed_step.print) == (
                self.version,
                self.print,
            )
        return completed_step.version >= self.version


def completed_step(name: str, detail: Mapping[str, Any] | None) -> CompletedStep:
    """From the columns of a step's row, as any version of this package may have written it."""
    known = detail or {}
    return CompletedStep(name, int(known.get("version", 0)), known.get("print"))


def missing_steps(
    steps: Iterable[StepDefinition], records: Iterable[CompletedStep]
) -> tuple[str, ...]:
    """The labels of the steps that the records do not cover, in their order."""
    known = list(records)
    return tuple(step.label for step in steps if not step.is_covered(known))


def call(function: Callable[[Any], Any], context: Any) -> Any:
    """What the function returns; if that is to be awaited, what comes of it."""
    result = function(context)
    if not inspect.isawaitable(result):
        return result

    async def value() -> Any:
        return await result

    return async_to_sync(value)()
