"""Which steps this build has, and in which order."""

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
#: What an `AppConfig` may define, which then is a step that is always done.
METHOD = "initialize_database"
#: PostgreSQL's integers end there.
MAX_VERSION = 2**31 - 1
_NAME = re.compile(r"[A-Za-z_][\w-]*\Z")


class StepError(NamedTuple):
    """What is wrong with the steps as a whole."""

    #: One of "name", "after" and "circle".
    kind: str
    message: str
    hint: str


class Registry:
    """The steps of the apps that are installed, found when they are first asked for."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._steps: list[StepDefinition] = []
        self._is_complete = False
        self._app: AppConfig | None = None

    def add(self, step: StepDefinition) -> None:
        """Register a step, whoever imports its module and when."""
        self._steps.append(step)

    def app_label(self, module: str) -> str:
        """The app that the module belongs to; if it is none's, the one that is looked through."""
        config = apps.get_containing_app_config(module) or self._app
        if config is None:
            raise ConfigurationError(
                f"The module {module} belongs to no installed app. Register steps in the "
                f"{MODULE}.py of an app."
            )
        return config.label

    def steps(self) -> list[StepDefinition]:
        """All of them, in the order of their apps and modules; may hold problems."""
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
            # A module that failed is imported, and registers its steps, once more.
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
        """All of them, each after those that it comes after.

        Raises `ConfigurationError` with the first problem.
        """
        steps = self.steps()
        for problem in iter_errors(steps):
            raise ConfigurationError(f"{problem.message} {problem.hint}")
        return tuple(_sorted(steps)[0])


def _has_module(config: AppConfig) -> bool:
    """Whether the app has the module; most apps have not, and every start asks all of them."""
    roots = list(getattr(config.module, "__path__", ()))
    if len(roots) == 1 and os.path.isdir(roots[0]):
        path = os.path.join(roots[0], MODULE)
        return os.path.isfile(f"{path}.py") or os.path.isdir(path)
    return bool(roots) and module_has_submodule(config.module, MODULE)


def iter_errors(steps: Sequence[StepDefinition]) -> list[StepError]:
    """Names that two steps have, steps to come after that cannot come before, and circles."""
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
    circle = [] if found else [step.label for step in _sorted(steps)[1]]
    if circle:
        found.append(
            StepError(
                "circle",
                f"Steps come after each other in a circle: {', '.join(circle)}.",
                "Take one of their `after` out.",
            )
        )
    return found


def _sorted(
    steps: Sequence[StepDefinition],
) -> tuple[list[StepDefinition], list[StepDefinition]]:
    """The steps in their order, and those that have none because of a circle."""
    waiting, done = list(steps), list[StepDefinition]()
    labels: set[str] = set()
    while free := next((s for s in waiting if labels.issuperset(s.predecessors)), None):
        waiting.remove(free)
        done.append(free)
        labels.add(free.label)
    return done, waiting


#: That of this process.
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
    """Register a function, sync or async, as a step of its app. A decorator.

    It is called with a `StepContext`, by the leader, after the migrations. `name` is that of the
    function unless given. `run`: "once" for each `version`; "always", with each run of a leader;
    "on_change", when what `fingerprint` returns (called once a process, without a database)
    differs from the last time. `after` names steps that come first, of another app with its
    label: `"shop.seed"`. With `atomic` the step and the record that it is done are one
    transaction; without it what a killed one has done is unknown, as with a migration.

    With `phase` "privileged" it is done by `safe_migrate --phase privileged` alone, each time and
    outside of a transaction, with a `PrivilegedContext`; `done`, called with one too, says by
    the server's catalogue whether it is there. Raises `ConfigurationError`.
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
