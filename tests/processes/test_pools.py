"""A project with pools runs its own tests: no further database, and nothing in their way."""

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
#: Asks for the report; prints the status, and the pools that this process has opened.
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


@pytest.fixture
def run_tests(tmp_path: Path) -> Callable[..., str]:
    """Runs the project's tests with a runner; returns what it printed."""

    def run(runner: str, database: dict[str, Any]) -> str:
        folder = shutil.copytree(PROJECT, tmp_path / "project")
        environment = {
            **os.environ,
            "POOLED_DATABASE": json.dumps(database),
            "PYTHONDONTWRITEBYTECODE": "1",
            "DJANGO_SETTINGS_MODULE": "settings",
        }
        done = subprocess.run(
            [sys.executable, *RUNNERS[runner]],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


@pytest.mark.smoke
@pytest.mark.parametrize("runner", RUNNERS)
def test_tests_of_a_project(
    run_tests: Callable[..., str], database: Database, runner: str
) -> None:
    """Tests see their own data inside the block, and the test database is dropped after them."""
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
    """The same on SQLite, in memory."""
    engine = "django.db.backends.sqlite3"
    run_tests(runner, {"ENGINE": engine, "NAME": ":memory:"})


def test_report_of_the_example_project(database: Database) -> None:
    """The report of the example project is read through the slow pool, and all else is not."""
    address = database.parameters
    environment = {
        **os.environ,
        "DATABASE_URL": "postgres://{user}@{host}:{port}/{dbname}".format(**address),
        "DJANGO_SETTINGS_MODULE": "mysite.settings",
        "SHOP_SLOW_SECONDS": "0",
    }
    for command in (["manage.py", "safe_migrate"], ["-c", ASK]):
        done = subprocess.run(
            [sys.executable, *command],
            cwd=EXAMPLE,
            env=environment,
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines() == ["200 True", "[(2, 1)]"]
