"""The tests of a project with pools run as usual, without an additional database."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import Database

EXAMPLE = Path(__file__).parents[2] / "example_project"
#: Requests the report, and prints the status and the pools that this process has opened.
ASK = """
import django
django.setup()
from django.db.backends.postgresql.base import DatabaseWrapper
from django.test import Client
answer = Client(headers={"host": "localhost"}).get("/best-sellers/")
print(answer.status_code, b"Nothing sold yet" in answer.content)
print([(pool.max_size, pool.get_stats()["requests_num"])
       for pool in DatabaseWrapper._connection_pools.values()])
"""
PROJECT = Path(__file__).with_name("pooled")
RUNNERS = {
    "django": ["manage.py", "test", "--noinput"],
    "pytest-django": ["-m", "pytest", "pytests.py"],
}


def run(folder: Path, *arguments: str, **environment: str) -> str:
    """Run Python in the folder. Return its output, or fail if it fails."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture
def run_tests(tmp_path: Path) -> Callable[..., str]:
    """Run the project's tests with a runner. Return its output."""

    def run_with(runner: str, database: dict[str, Any]) -> str:
        return run(
            shutil.copytree(PROJECT, tmp_path / "project"),
            *RUNNERS[runner],
            POOLED_DATABASE=json.dumps(database),
            DJANGO_SETTINGS_MODULE="settings",
        )

    return run_with


@pytest.mark.smoke
@pytest.mark.parametrize("runner", RUNNERS)
def test_tests_of_a_project(
    run_tests: Callable[..., str], database: Database, runner: str
) -> None:
    """The tests see their data inside `using_pool`, and the runner drops the test database."""
    output = run_tests(runner, database.settings(OPTIONS={"pool": True}))
    assert ("Ran 6 tests" if runner == "django" else "3 passed") in output
    rows = database.rows(
        "SELECT 1 FROM pg_database WHERE datname = %s", f"test_{database.name}"
    )
    assert rows == []


@pytest.mark.parametrize("runner", RUNNERS)
def test_tests_of_a_project_on_sqlite(
    run_tests: Callable[..., str], runner: str
) -> None:
    """The tests of the project pass on SQLite, in memory."""
    engine = "django.db.backends.sqlite3"
    run_tests(runner, {"ENGINE": engine, "NAME": ":memory:"})


def test_report_of_the_example_project(database: Database) -> None:
    """Only the example project's report reads through the slow pool."""
    environment = {
        "DATABASE_URL": "postgres://{user}@{host}:{port}/{dbname}".format(
            **database.parameters
        ),
        "DJANGO_SETTINGS_MODULE": "mysite.settings",
        "SHOP_SLOW_SECONDS": "0",
    }
    run(EXAMPLE, "manage.py", "safe_migrate", **environment)
    found = run(EXAMPLE, "-c", ASK, **environment)
    assert found.splitlines() == ["200 True", "[(2, 1)]"]
