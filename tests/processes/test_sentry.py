"""Failed runs as an error tracker sees them: the real SDK of Sentry in real processes."""

from __future__ import annotations

import json

import pytest

from tests.processes.harness import Fleet, exit_codes
from tests.support import Database

SAFE = ["safe_migrate", "--json"]


@pytest.fixture(autouse=True)
def _tracker(fleet: Fleet) -> None:
    fleet.use(scenario="failing", sentry="1")
    fleet.tracebacks = True


def events(fleet: Fleet) -> list[tuple[int, list[str]]]:
    """Return the process and the error types of each event, all of which are errors."""
    found = []
    for pid, text in fleet.notes("event "):
        level, errors = json.loads(text.removeprefix("event "))
        assert level in ("error", "fatal"), text
        found.append((pid, errors))
    return found


@pytest.mark.smoke
def test_safe_migrate(fleet: Fleet, database: Database) -> None:
    """A failed run is one event of the leader; its followers send none."""
    started = fleet.start_together(SAFE, SAFE, ["safe_migrate"])
    fleet.wait_for_note("inside")
    fleet.wait_for_followers(2)
    leader = fleet.leader()
    fleet.allow()
    assert exit_codes(started) == [1] * 3, fleet
    assert events(fleet) == [(leader.pid, ["ValueError"])]
    assert leader.stderr.count("Traceback") == 1
    for replica in started:
        assert replica is leader or "Traceback" not in replica.stderr, replica


def test_migrate(fleet: Fleet, database: Database) -> None:
    """`migrate` that fails is one event, as with Django's own."""
    fleet.allow()
    failed = fleet.run("migrate")
    assert failed.wait() == 1, failed
    assert events(fleet) == [(failed.pid, ["ValueError"])]
    assert failed.stderr.count("Traceback") == 1


def test_initialize(fleet: Fleet, database: Database) -> None:
    """`initialize()` whose error ends the program is one event."""
    fleet.allow()
    code = "from django_safe_init import initialize; initialize()"
    failed = fleet.run("shell", "--no-imports", "--command", code)
    assert failed.wait() == 1, failed
    assert [pid for pid, _ in events(fleet)] == [failed.pid]
    assert "ValueError" in events(fleet)[0][1]


def test_a_success(fleet: Fleet, database: Database) -> None:
    """A run that succeeds is no event."""
    ready = fleet.run(*SAFE, scenario="plain")
    assert ready.wait() == 0, ready
    assert events(fleet) == []


def test_failed_checks(fleet: Fleet, database: Database) -> None:
    """System checks that fail are one event of each process that ran them."""
    first, second = (fleet.run(*SAFE, check="breaks") for _ in range(2))
    assert exit_codes([first, second]) == [1, 1], fleet
    assert events(fleet) == [
        (first.pid, ["LookupError"]),
        (second.pid, ["LookupError"]),
    ]


def test_a_run_that_killed_its_leaders(fleet: Fleet, database: Database) -> None:
    """The third death of a leader in a row is an event of the process that finds it."""
    fleet.use(scenario="deadly")
    codes = [fleet.run(*SAFE).wait() for _ in range(4)]
    assert codes == [137, 137, 137, 1], fleet
    assert events(fleet) == [(fleet.replicas[-1].pid, [])]
