"""Collect the steps of the installed apps in the order to run."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from typing import Any, NamedTuple

from django.apps import AppConfig, apps
from django.utils.module_loading import module_has_submodule

from django_safe_init.core.step import PHASES, RUNS, Function, StepDefinition
from django_safe_init.exceptions import ConfigurationError

MODULE = "init_steps"
#: A method with this name of an `AppConfig` is a step with `run="always"`.
METHOD = "initialize_database"
#: The maximum of PostgreSQL's type `integer`.
MAX_VERSION = 2**31 - 1
_NAME = re.compile(r"[A-Za-z_][\w-]*\Z")


class StepError(NamedTuple):
    """An error in the combination of all steps."""

    #: One of "name", "after" and "cycle".
    kind: str
    message: str
    hint: str


class Registry:
    """The steps of the installed apps, imported on first use."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._steps: list[StepDefinition] = []
        self._is_complete = False
        self._app: AppConfig | None = None

    def add(self, step: StepDefinition) -> None:
        """Register a step."""
        self._steps.append(step)

    def app_label(self, module: str) -> str:
        """Return the label of the app that contains the module.

        A module outside of every app, such as a library, belongs to the app whose
        `init_steps.py` imports it. Raise `ConfigurationError` if no app imports it.
        """
        config = apps.get_containing_app_config(module) or self._app
        if config is None:
            raise ConfigurationError(
                f"The module {module} belongs to no installed app. Register steps in the "
                f"{MODULE}.py of an app."
            )
        return config.label

    def steps(self) -> list[StepDefinition]:
        """Return all steps, unchecked, in the order of their apps and modules."""
        with self._lock:
            if not self._is_complete:
                configs = list(apps.get_app_configs())
                self._import_from(configs)
                self._add_methods_of(configs)
                places = {config.label: place for place, config in enumerate(configs)}
                self._steps.sort(key=lambda step: places.get(step.app_label, -1))
                self._is_complete = True
            return self._steps

    def _import_from(self, configs: Iterable[AppConfig]) -> None:
        try:
            for config in configs:
                self._app = config
                if _has_module(config):
                    import_module(f"{config.name}.{MODULE}")
        except BaseException:
            # The next import of the module that failed registers its steps again.
            self._steps = [
                step for step in self._steps if step.function.__module__ in sys.modules
            ]
            raise
        finally:
            self._app = None

    def _add_methods_of(self, configs: Iterable[AppConfig]) -> None:
        for config in configs:
            method = getattr(config, METHOD, None)
            if callable(method):
                self.add(StepDefinition(config.label, METHOD, method, run="always"))

    def ordered(self) -> tuple[StepDefinition, ...]:
        """Return all steps, each after its predecessors.

        Raise `ConfigurationError` with the first error.
        """
        steps = self.steps()
        for error in iter_errors(steps):
            raise ConfigurationError(f"{error.message} {error.hint}")
        return tuple(_sorted(steps)[0])


def _has_module(config: AppConfig) -> bool:
    """Return True if the app has the module.

    Checks the file system first, because every start checks all apps, and importing is slow.
    """
    roots = list(getattr(config.module, "__path__", ()))
    if len(roots) == 1 and os.path.isdir(roots[0]):
        path = os.path.join(roots[0], MODULE)
        return os.path.isfile(f"{path}.py") or os.path.isdir(path)
    return bool(roots) and module_has_submodule(config.module, MODULE)


def iter_errors(steps: Sequence[StepDefinition]) -> list[StepError]:
    """Return duplicate names, invalid `after` arguments and cycles."""
    labels = [step.label for step in steps]
    later = {step.label for step in steps if step.phase != "privileged"}
    found = [
        StepError(
            "name",
            f"Two steps are called {label}.",
            "Give one of them another name.",
        )
        for label in sorted({label for label in labels if labels.count(label) > 1})
    ]
    found += [
        StepError(
            "after",
            f"The step {step.label} comes after {label}, which does not exist.",
            f"There are: {', '.join(sorted(labels))}.",
        )
        for step in steps
        for label in step.predecessors
        if label not in labels
    ]
    found += [
        StepError(
            "after",
            f"The privileged step {step.label} comes after {label}, which is not privileged.",
            "The privileged phase comes before all others: take it out of `after`.",
        )
        for step in steps
        if step.phase == "privileged"
        for label in step.predecessors
        if label in later
    ]
    cycle = [] if found else [step.label for step in _sorted(steps)[1]]
    if cycle:
        found.append(
            StepError(
                "cycle",
                f"Steps come after each other in a circle: {', '.join(cycle)}.",
                "Take one of their `after` out.",
            )
        )
    return found


def _sorted(
    steps: Sequence[StepDefinition],
) -> tuple[list[StepDefinition], list[StepDefinition]]:
    """Return the steps in topological order, and the steps of a cycle."""
    waiting, done = list(steps), list[StepDefinition]()
    labels: set[str] = set()
    while free := next((s for s in waiting if labels.issuperset(s.predecessors)), None):
        waiting.remove(free)
        done.append(free)
        labels.add(free.label)
    return done, waiting


#: The registry of this process.
registry = Registry()


def init_step(
    function: Function | None = None,
    *,
    name: str | None = None,
    version: int = 1,
    run: str = "once",
    after: Iterable[str] = (),
    atomic: bool = True,
    fingerprint: Callable[[], Any] | None = None,
    phase: str = "schema",
    done: Callable[[Any], bool] | None = None,
) -> Any:
    """Register a function or coroutine function as a step of its app. Usable as a decorator.

    The leader calls the function with a `StepContext` after the migrations.

    `name` is the name of the step. The default is the name of the function.

    `run` is "once" to run the step once for each `version`, "always" to run it in each run of
    a leader, or "on_change" to run it when the result of `fingerprint` differs from the last
    time. `fingerprint` is called once in each process and must not query a database.

    `after` names steps that must run before. Use the app label for a step of another app:
    `"shop.seed"`.

    With `atomic=True`, the step and the record of its completion are one transaction. With
    `atomic=False`, a killed step may have done part of its work, as with a migration.

    With `phase="privileged"`, only `safe_migrate --phase privileged` runs the step, each time
    and outside of a transaction. `function` and `done` are called with a `PrivilegedContext`;
    `done` returns True if PostgreSQL's catalog shows that the step is done.

    Raise `ConfigurationError` for an invalid argument.
    """

    def register(function: Function) -> Function:
        step = StepDefinition(
            registry.app_label(function.__module__),
            name or function.__name__,
            function,
            version,
            run,
            tuple(after),
            atomic,
            fingerprint,
            phase,
            done,
        )
        _check_step(step)
        registry.add(step)
        return function

    return register if function is None else register(function)


def _check_step(step: StepDefinition) -> None:
    wrong = ""
    if not _NAME.match(step.name):
        wrong = "has a name that is no word: use letters, digits, `-` and `_`"
    elif step.run not in RUNS:
        wrong = f"has run={step.run!r}: use one of {', '.join(map(repr, RUNS))}"
    elif (step.run == "on_change") != (step.fingerprint is not None):
        wrong = 'needs both or neither: run="on_change" and a fingerprint'
    elif type(step.version) is not int or not 1 <= step.version <= MAX_VERSION:
        wrong = (
            f"has version={step.version!r}: use a whole number from 1 to {MAX_VERSION}"
        )
    elif step.phase not in PHASES:
        wrong = f"has phase={step.phase!r}: use one of {', '.join(map(repr, PHASES))}"
    elif (step.phase == "privileged") != (step.done is not None):
        wrong = 'needs both or neither: phase="privileged" and done'
    if wrong:
        raise ConfigurationError(f"The step {step.label} {wrong}.")
