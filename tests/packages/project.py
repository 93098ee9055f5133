"""A project with one package, which is migrated, then validated."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .known import Package

REPOSITORY = Path(__file__).resolve().parents[2]
_WARNINGS = {"missing_table": "warn", "missing_column": "warn"}
MODELS = "from django.db import models\n"


class ProjectFailed(Exception):
    """A command of a project failed."""


@dataclass(frozen=True)
class Project:
    """A project: a folder, the interpreter with the packages, and a database."""

    folder: Path
    python: Path
    package: Package
    database: Mapping[str, Any]

    def validate(self) -> dict[str, Any]:
        """Migrate the database, and return its entry in the JSON of `safe_init_validate`."""
        self.prepare()
        self._run("migrate", "--skip-checks")
        output = self._run("safe_init_validate", "--json", fails=True)
        document = json.loads(output)
        if document["error"]:
            raise ProjectFailed(document["error"])
        found: dict[str, Any] = document["databases"][0]
        return found

    def prepare(self) -> None:
        """Write the app `probe` with its migrations, if the package has one."""
        self.folder.mkdir(parents=True)
        if not self.package.models:
            return
        self._write_probe()
        self._run(self.package.makemigrations, "probe", "--skip-checks")
        for name, source in self.package.migrations.items():
            (self.folder / f"probe/migrations/{name}.py").write_text(source)

    def _write_probe(self) -> None:
        probe = self.folder / "probe"
        probe.mkdir()
        (probe / "__init__.py").touch()
        (probe / "models.py").write_text(MODELS + self.package.models)

    def start(
        self, *arguments: str, output: int, environment: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        """Start a command of the project, in which points of death may be placed."""
        return subprocess.Popen(
            [self.python, "-m", "tests.packages.manage", *arguments],
            cwd=self.folder,
            env={**self._environment(), **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )

    def _run(self, *arguments: str, fails: bool = False) -> str:
        process = subprocess.run(
            [self.python, "-m", "django", *arguments],
            cwd=self.folder,
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=300,
        )
        if process.returncode and not (fails and process.stdout):
            last = (process.stderr.strip() or process.stdout.strip()).splitlines()[-5:]
            raise ProjectFailed(f"{arguments[0]}: {' / '.join(last)}")
        return process.stdout

    def _environment(self) -> dict[str, str]:
        package = self.package
        apps = [*package.apps, *(["probe"] if package.models else [])]
        settings = dict(package.settings)
        if package.migrations:  # the models are those before them
            settings["SAFE_INIT"] = {"VALIDATE": _WARNINGS}
        given = {
            "apps": apps,
            "settings": settings,
            "constants": package.constants,
            "database": dict(self.database),
        }
        return {
            **os.environ,
            "PYTHONPATH": f"{self.folder}{os.pathsep}{REPOSITORY}",
            "DJANGO_SETTINGS_MODULE": "tests.packages.settings",
            "PACKAGE_PROJECT": json.dumps(given),
        }
