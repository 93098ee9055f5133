"""Projects on PostgreSQL without psycopg 3: with psycopg2, no driver, no libpq, an old version."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.processes.harness import PROJECT, Fleet
from tests.serving.harness import LIVE, STATUS, gunicorn
from tests.support import Database, SqliteDatabase, validate_json

REMEDY = "pip install 'psycopg[binary]>=3.2'"
#: A module that hides the installed one of its name. Without psycopg, Django uses psycopg2.
HIDE = "raise ModuleNotFoundError('No module named ' + repr(__name__), name=__name__)"
#: Gives psycopg another version before Django reads it.
OLD = "import psycopg\npsycopg.__version__ = '3.1.20'"
#: Selects an implementation of psycopg that is not installed, as if libpq were missing.
NO_LIBPQ = {"PSYCOPG_IMPL": "c"}

#: For each situation the modules to write, the variables to set, and the reason that is stated.
PSYCOPG2: dict[str, tuple[dict[str, str], dict[str, str], str]] = {
    "psycopg2 alone": ({"psycopg": HIDE}, {}, "Django uses psycopg2, and"),
    "psycopg2 and no libpq": ({}, NO_LIBPQ, "(psycopg cannot be imported: "),
    "an old psycopg": ({"sitecustomize": OLD}, {}, "psycopg 3.1.20 is installed"),
}
NOTHING: dict[str, tuple[dict[str, str], dict[str, str], str]] = {
    "no driver": (
        {"psycopg": HIDE, "psycopg2": HIDE},
        {},
        "Error loading psycopg2 or psycopg module, and",
    ),
    "no libpq": (
        {"psycopg2": HIDE},
        NO_LIBPQ,
        "(psycopg cannot be imported: ",
    ),
}
ALL = {**PSYCOPG2, **NOTHING}
#: Every command of this package about the alias.
REFUSED = [
    ["safe_migrate"],
    ["safe_migrate", "--json"],
    ["safe_migrate", "--mode=external", "--json"],
    ["safe_migrate", "--plan"],
    ["safe_migrate", "--check", "--json"],
    ["safe_migrate", "--phase=privileged", "--json"],
    ["safe_migrate", "--json", "--", "true"],
    ["safe_init_status"],
    ["safe_init_status", "--json"],
    ["safe_init_status", "--wait", "--json"],
    ["safe_init_status", "--watch"],
    ["safe_init_unlock", "--noinput"],
    ["safe_init_validate"],
    ["safe_init_validate", "--json"],
]
#: Runs the commands of its argument in one process; prints their exit codes and outputs.
PROGRAM = """
import json, os, sys, tempfile
from django.core.management import execute_from_command_line
results, saved = [], [os.dup(1), os.dup(2)]
for command in json.loads(sys.argv[1]):
    code, files = 0, [tempfile.TemporaryFile() for _ in saved]
    for number, file in enumerate(files, 1):
        os.dup2(file.fileno(), number)
    try:
        execute_from_command_line(["manage.py", *command])
    except SystemExit as exc:
        code = exc.code or 0
    sys.stdout.flush(), sys.stderr.flush()
    for number, file in enumerate(saved, 1):
        os.dup2(file, number)
    for file in files:
        file.seek(0)
    results.append([code, *(file.read().decode() for file in files)])
print(json.dumps(results))
"""


class Ended(NamedTuple):
    """A command that has ended."""

    code: int
    stdout: str
    stderr: str


class Project:
    """The project of the scenarios, whose database is reached without psycopg 3."""

    def __init__(self, fleet: Fleet, situation: str, folder: Path) -> None:
        modules, variables, self.reason = ALL[situation]
        folder.mkdir()
        for name, source in modules.items():
            (folder / f"{name}.py").write_text(source)
        self.fleet = fleet
        #: The alias without psycopg 3. Without any driver for "default" Django does not start.
        self.alias = "default"
        path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
        self.environment = {"PYTHONPATH": path, **variables}
        fleet.use(env=self.environment)
        if situation in NOTHING:
            self.alias = "other"
            fleet.use(
                database=SqliteDatabase(folder / "db.sqlite3"),
                databases={"other": fleet.database},
                safe_init={"DATABASES": ["other"]},
            )

    def run(self, *commands: list[str]) -> list[Ended]:
        """Run the commands one after another, in one process."""
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, json.dumps(commands)],
            env={**self.fleet.environment(), "DJANGO_SETTINGS_MODULE": "settings"},
            cwd=PROJECT,
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
        assert done.returncode == 0, done.stderr
        results = json.loads(done.stdout.splitlines()[-1])
        return [Ended(*result) for result in results]

    def assert_refused(self, ended: Ended, json_of: str | None = None) -> None:
        """Assert exit code 2, and one sentence with the reason and the remedy, perhaps as JSON."""
        assert ended.code == 2, ended
        error = ended.stderr
        if json_of is not None:
            document = json.loads(ended.stdout)
            validate_json(json_of, document)
            error = document["error"]
        else:
            assert len(error.splitlines()) == 1, ended
        assert f"No leader lock for database {self.alias!r}: " in error, ended
        assert self.reason in error, ended
        assert REMEDY in error, ended
        assert "Traceback" not in ended.stdout + ended.stderr, ended

    def assert_warned(self, ended: Ended) -> None:
        """Assert that the command succeeded, and warned with the reason and the remedy."""
        assert ended.code == 0, ended
        assert "(safe_init.W008)" in ended.stderr
        assert self.reason in ended.stderr
        assert f"HINT: Run: {REMEDY}" in ended.stderr


@pytest.fixture
def project(fleet: Fleet, tmp_path: Path) -> Callable[[str], Project]:
    return lambda situation: Project(fleet, situation, tmp_path / "modules")


@pytest.mark.parametrize(
    "situation",
    [pytest.param("psycopg2 alone", marks=pytest.mark.smoke), *list(ALL)[1:]],
)
def test_commands(project: Callable[[str], Project], situation: str) -> None:
    """Each `safe_*` command exits 2 with one sentence that holds the line for pip.

    `check` warns with the same line, although no database is reached.
    """
    chosen = project(situation)
    option = f"--database={chosen.alias}"
    commands = [[name, option, *rest] for name, *rest in REFUSED]
    check, *results = chosen.run(["check"], *commands)
    chosen.assert_warned(check)
    for command, ended in zip(commands, results, strict=True):
        chosen.assert_refused(ended, command[0] if "--json" in command else None)


@pytest.mark.parametrize("situation", PSYCOPG2)
def test_migrate_is_djangos(
    project: Callable[[str], Project], database: Database, situation: str
) -> None:
    """`migrate` warns and migrates as Django does, without this package's tables."""
    chosen = project(situation)
    migrate, again = chosen.run(["migrate"], ["migrate", "--check"])
    chosen.assert_warned(migrate)
    assert again.code == 0, again
    assert len(database.applied_once()) == 5
    assert not database.has_table("django_safe_init_run")


@pytest.mark.parametrize("situation", NOTHING)
def test_migrate_without_any_driver(
    project: Callable[[str], Project], situation: str
) -> None:
    """`migrate`, which Django cannot run either, says in one sentence what to install."""
    chosen = project(situation)
    [ended] = chosen.run(["migrate", "--database=other"])
    chosen.assert_refused(ended)


@pytest.mark.parametrize("safe_init", [{"MODE": "off"}, {"LOCK": "none"}])
def test_accepted(
    fleet: Fleet,
    project: Callable[[str], Project],
    database: Database,
    safe_init: dict[str, str],
) -> None:
    """With the mode "off", or LOCK "none", the commands are Django's, without a warning."""
    chosen = project("psycopg2 alone")
    fleet.use(safe_init=safe_init)
    for ended in chosen.run(["safe_migrate"], ["migrate"], ["safe_migrate", "--plan"]):
        assert ended.code == 0, ended
    assert len(database.applied_once()) == 5


def test_accepted_without_any_driver(
    fleet: Fleet, project: Callable[[str], Project]
) -> None:
    """LOCK "none" does not hide that Django itself has no driver."""
    chosen = project("no driver")
    fleet.use(safe_init={"DATABASES": ["other"], "LOCK": "none"})
    [ended] = chosen.run(["safe_migrate", "--database=other"])
    chosen.assert_refused(ended)


@pytest.mark.parametrize(
    ("situation", "serve"),
    [
        ("psycopg2 alone", "gate"),
        ("psycopg2 alone", "initialize"),
        ("no driver", "gate"),
    ],
)
def test_a_web_server(
    fleet: Fleet, project: Callable[[str], Project], situation: str, serve: str
) -> None:
    """A web process reads with psycopg2, and without any driver it shows an error."""
    chosen = project(situation)
    fleet.use(safe_init={"SERVE": serve, "DATABASES": [chosen.alias]})
    server = gunicorn(fleet, settings={"env": chosen.environment})
    assert server.get(LIVE).status == 200
    state = "uninitialized" if situation in PSYCOPG2 else "error"
    server.wait_for(lambda answer: answer.json["state"] == state)
    assert server.get("/entries/").status == 503
    assert "psycopg" not in server.get(STATUS).body
    if situation in PSYCOPG2:
        [migrate] = chosen.run(["migrate"])
        assert migrate.code == 0, migrate
        server.wait_until_ready()
        assert server.get("/entries/").json == {"entries": ["data"]}
    server.end()
    assert (REMEDY in server.replica.stderr) is (situation in NOTHING)
