"""A synthetic Django project: 60 apps and, with Django's own, 618 migrations."""

from __future__ import annotations

import compileall
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from . import apps

REPOSITORY = Path(__file__).resolve().parents[2]
TEMPLATE = Path(__file__).with_name("template")

APPS = 60
CHAIN = 6
#: The number of all migrations, including 18 of `django.contrib`.
MIGRATIONS = 618

INITIALIZED = "config.settings"
STOCK = "config.stock"
HELD = "config.held"


class CommandFailed(Exception):
    """A process of the benchmark failed."""


@dataclass(frozen=True)
class Project:
    """A generated project. Its processes use this interpreter and this package."""

    root: Path

    def environment(
        self, settings: str, database: Mapping[str, object], **extra: str
    ) -> dict[str, str]:
        """Return the environment for a process of this project on this database."""
        return environment(
            self.root,
            DJANGO_SETTINGS_MODULE=settings,
            BENCHMARK_DATABASE=json.dumps(database),
            **extra,
        )

    def run(self, *arguments: str, environment: Mapping[str, str]) -> Finished:
        """Run a script of the project and time the whole process."""
        started = time.perf_counter()
        process = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.root,
            env=environment,
            capture_output=True,
            text=True,
        )
        seconds = time.perf_counter() - started
        if process.returncode:
            raise CommandFailed(
                f"{' '.join(arguments)} exited with {process.returncode}:\n"
                f"{process.stdout[-2000:]}{process.stderr[-4000:]}"
            )
        return Finished(seconds, process.stdout)


@dataclass(frozen=True)
class Finished:
    """The result of a process that exited with 0."""

    seconds: float
    output: str


def environment(root: Path, **extra: str) -> dict[str, str]:
    """Return this process's environment without the variables that would change the figures."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "COVERAGE", "DJANGO", "DB_INIT", "SAFE_INIT"))
    }
    return inherited | {"PYTHONPATH": f"{root}{os.pathsep}{REPOSITORY}"} | extra


def generate(root: Path) -> Project:
    """Write the project to the new folder `root` and compile it."""
    shutil.copytree(TEMPLATE, root, ignore=shutil.ignore_patterns("__pycache__"))
    labels = [f"app_{number:02}" for number in range(APPS)]
    (root / "config" / "labels.py").write_text(f"LABELS = {labels!r}\n")
    each, rest = divmod(MIGRATIONS - contrib_migrations(), APPS)
    for number, label in enumerate(labels):
        apps.write(root / label, neighbor(number), each + (number < rest))
    compileall.compile_dir(root, quiet=1)
    return Project(root)


def neighbor(number: int) -> str:
    """Return the model to which an app has a foreign key. The apps form chains.

    If all models were connected, Django would render all of them for each change, and that would
    dominate the figures.
    """
    if number == 0:
        return "auth.User"
    return (
        f"app_{number - 1:02}.Item" if number % CHAIN else f"app_{number:02}.Category"
    )


def contrib_migrations() -> int:
    """Return the number of migrations of the project's `django.contrib` apps."""
    import django.contrib

    contrib = Path(django.contrib.__file__).parent
    names = ("admin", "auth", "contenttypes", "sessions")
    return sum(
        len(list((contrib / name / "migrations").glob("[0-9]*.py"))) for name in names
    )
