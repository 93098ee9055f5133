"""Standard streams that are closed when a command starts, as `>&-` of a shell does."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.processes.harness import PROJECT, Fleet, Replica
from tests.processes.test_empty_default import SLEEPING
from tests.support import Database

STREAMS = [">&-", "2>&-", "<&- >&- 2>&-"]


def run(fleet: Fleet, closed: str, *arguments: str) -> Replica:
    """Run the command with these streams closed, and wait for its end."""
    shell = ["sh", "-c", f'exec "$@" {closed}', "sh"]
    replica = Replica(
        [*shell, sys.executable, str(PROJECT / "manage.py"), *arguments],
        fleet.environment(),
        fleet.directory / f"replica-{len(fleet.replicas)}",
    )
    fleet.replicas.append(replica)
    replica.wait()
    return replica


@pytest.mark.parametrize("closed", STREAMS)
def test_the_command_after_it(
    fleet: Fleet, database: Database, tmp_path: Path, closed: str
) -> None:
    """`safe_migrate` initializes, also with a migration that prints, and starts the command.

    The command can print, too.
    """
    fleet.use(scenario="printing", env={"SCENARIO_TEXT": "text"})
    for name in ("first", "again"):
        file = tmp_path / name
        program = f"print(1); import pathlib; pathlib.Path({str(file)!r}).touch()"
        replica = run(
            fleet, closed, "safe_migrate", "--", sys.executable, "-c", program
        )
        assert replica.wait() == 0, replica
        assert file.exists()
    assert len(database.runs()) == 1


#: The exit code of each command before the initialization, and after it.
VERDICTS = {
    "safe_init_status": (3, 0),
    "safe_init_status --json": (3, 0),
    "safe_init_validate": (1, 0),
    "safe_init_unlock": (0, 0),
    "safe_migrate --check": (1, 0),
    "safe_migrate --nonsense": (2, 2),
    "migrate --check": (1, 0),
}


@pytest.mark.parametrize("closed", STREAMS)
def test_the_exit_code(fleet: Fleet, database: Database, closed: str) -> None:
    """The exit code is the verdict, before the initialization and after it."""
    for index, initialize in enumerate(("safe_migrate --json", "migrate")):
        for command, codes in VERDICTS.items():
            replica = run(fleet, closed, *command.split())
            assert replica.wait() == codes[index], replica
        replica = run(fleet, closed, *initialize.split())
        assert replica.wait() == 0, replica


def test_a_question_without_a_standard_input(fleet: Fleet, database: Database) -> None:
    """`safe_init_unlock` asks nothing without a terminal."""
    fleet.start("safe_migrate", scenario="statement")
    fleet.wait_until(lambda: database.backends(SLEEPING), "the statement runs")
    replica = run(fleet, "<&-", "safe_init_unlock")
    assert replica.wait() == 1, replica
    assert "there is no terminal to confirm it on" in replica.stderr
