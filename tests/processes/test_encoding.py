"""Output in an encoding that lacks characters of the texts."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.processes.harness import Fleet
from tests.support import Database

ASCII = {"PYTHONIOENCODING": "ascii"}
#: As in a container without a locale: Python's error handler is another one.
POSIX = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
TEXT = "größe 你好 \U0001f642"
ESCAPED = r"gr\xf6\xdfe \u4f60\u597d \U0001f642"


@pytest.fixture(params=[ASCII, POSIX], ids=["ascii", "posix"])
def ready(request: pytest.FixtureRequest, fleet: Fleet, database: Database) -> Fleet:
    """Return a fleet on a ready database whose first run has texts of many alphabets."""
    for _ in range(2):
        first = fleet.run("safe_migrate", "--force")
        assert first.wait() == 0, first
    database.rows(
        "UPDATE django_safe_init_run SET outcome = 'failed', error = %s, leader = %s,"
        " traceback = %s WHERE id = 1",
        *[TEXT] * 3,
    )
    database.rows("UPDATE django_safe_init_step SET name = %s WHERE run_id = 1", TEXT)
    fleet.use(env=request.param)
    return fleet


@pytest.mark.parametrize(
    "command",
    [
        "safe_init_status",
        "safe_init_status --history 9",
        "safe_init_status --run 1",
        "safe_init_status --watch --history 9",
        "safe_migrate",
        "migrate",
    ],
)
def test_a_ready_database(ready: Fleet, command: str) -> None:
    """Each command ends as in any other encoding, and escapes what it cannot print."""
    replica = ready.run(*command.split())
    assert replica.wait() == 0, replica
    assert "Traceback (most recent call last):\n  File" not in replica.stderr, replica
    shows_texts = "--history" in command or "--run" in command
    assert (ESCAPED in replica.stdout) == shows_texts, replica


@pytest.mark.parametrize("option", ["--history=9", "--run=1"])
def test_json(ready: Fleet, option: str) -> None:
    """The JSON has the characters themselves."""
    replica = ready.run("safe_init_status", "--json", option)
    assert replica.wait() == 0, replica
    document = json.loads(replica.stdout)
    run = document["run"] if "run=" in option else document["history"][-1]
    assert (run["error"], run["leader"]) == (TEXT, TEXT)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("command", ["safe_migrate", "migrate"])
def test_a_migration_that_prints(
    fleet: Fleet, make_database: Callable[[], Database], command: str, count: int
) -> None:
    """A migration whose output cannot be encoded is applied, on one database and on two."""
    if count > 1:
        databases = {"other": make_database()}
        fleet.use(databases=databases, safe_init={"DATABASES": ["default", "other"]})
    fleet.use(scenario="printing", env={**ASCII, "SCENARIO_TEXT": TEXT})
    replica = fleet.run(command)
    assert replica.wait() == 0, replica
    assert f"printed by a migration {ESCAPED}" in replica.stdout
    again = fleet.run(command, "--verbosity", "3")
    assert again.wait() == 0, again
