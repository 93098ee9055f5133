"""An error of one process does not fail the build: another process takes over."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import pytest

from tests.processes.harness import Fleet, Replica, entries, exit_codes
from tests.support import Database

SAFE = ["safe_migrate", "--json"]
#: Replaces itself by the program after its first argument, a pipe that becomes its output.
_PROGRAM = """
import os, sys
pipe = os.open(sys.argv[1], os.O_WRONLY)
os.dup2(pipe, {descriptor})
os.close(pipe)
os.execv(sys.argv[2], sys.argv[2:])
"""
#: Replaces itself by a program whose standard output is a pipe without a reader.
_WITHOUT_READER = """
import os, sys
reader, writer = os.pipe()
os.dup2(writer, 1)
os.close(reader)
os.execv(sys.argv[1], sys.argv[1:])
"""


class Pipe:
    """A named pipe, whose only reader can leave."""

    def __init__(self, fleet: Fleet) -> None:
        self.path = fleet.directory / "output"
        os.mkfifo(self.path)
        self._reader = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)

    def wrapper(self, descriptor: int) -> Sequence[str]:
        """Return the command before a program whose output is this pipe."""
        program = _PROGRAM.format(descriptor=descriptor)
        return [sys.executable, "-c", program, str(self.path)]

    def close(self) -> None:
        """Leave the pipe without a reader."""
        os.close(self._reader)


def assert_another_took_over(
    database: Database, started: Sequence[Replica], fleet: Fleet
) -> None:
    """Fail unless the first replica failed and the others initialized the database."""
    first, *others = exit_codes(started)
    assert first != 0, fleet
    assert set(others) == {0}, fleet
    outcomes = [run["outcome"] for run in database.runs()]
    assert outcomes == ["transient", "ready"], database.runs()


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("descriptor", "arguments"),
    [
        pytest.param(1, ["safe_migrate"], id="stdout"),
        # With --json the output of a run goes to standard error.
        pytest.param(2, SAFE, id="stderr"),
        pytest.param(1, ["migrate"], id="migrate"),
    ],
)
def test_nothing_reads_the_output(
    fleet: Fleet, database: Database, descriptor: int, arguments: list[str]
) -> None:
    """A leader whose output has lost its reader gives up, and a waiting process continues."""
    fleet.use(scenario="gated", print="1")
    fleet.tracebacks = True
    pipe = Pipe(fleet)
    broken = fleet.start(*arguments, wrapper=pipe.wrapper(descriptor))
    fleet.wait_for_note("inside")
    others = [fleet.start(*SAFE) for _ in range(2)]
    fleet.wait_for_followers(2)
    pipe.close()
    fleet.allow()
    assert_another_took_over(database, [broken, *others], fleet)
    assert "BrokenPipeError" in database.runs()[0]["error"]
    assert entries(database) == ["gate", "data"]
    assert len(database.applied_once()) == 3


def test_many_processes_without_a_reader(fleet: Fleet, database: Database) -> None:
    """However many processes have lost their output, the build does not fail."""
    fleet.tracebacks = True
    wrapper = [sys.executable, "-c", _WITHOUT_READER]
    broken = [fleet.run("safe_migrate", wrapper=wrapper) for _ in range(4)]
    assert 0 not in exit_codes(broken), fleet
    assert fleet.run(*SAFE).wait() == 0, fleet
    outcomes = [run["outcome"] for run in database.runs()]
    assert outcomes == ["transient"] * 4 + ["ready"], database.runs()
    assert {run["state"] for run in database.runs()} == {"uninitialized", "ready"}


def test_a_full_disk(fleet: Fleet, database: Database) -> None:
    """A leader whose output is a file on a full disk fails, and only this leader."""
    full = [sys.executable, "-c", _PROGRAM.format(descriptor=1), "/dev/full"]
    fleet.tracebacks = True
    broken = fleet.run("safe_migrate", wrapper=full)
    assert "No space left on device" in broken.stderr, broken
    assert_another_took_over(database, [broken, fleet.run(*SAFE)], fleet)


def test_a_pipe_of_the_migration(fleet: Fleet, database: Database) -> None:
    """The broken pipe of a migration's own program is the build's failure."""
    fleet.use(scenario="own_pipe")
    fleet.tracebacks = True
    assert fleet.run(*SAFE).wait() == 1, fleet
    run = database.newest_run()
    assert run["outcome"] == "failed"
    assert "BrokenPipeError" in run["error"]
