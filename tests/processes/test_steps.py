"""Steps of a fleet: one replica runs them, also after a crash."""

from __future__ import annotations

from typing import Any

import pytest

from tests.processes.harness import Fleet, entries, exit_codes
from tests.support import Database

SAFE, STOCK = ["safe_migrate", "--json"], ["migrate"]


def outcomes(database: Any) -> list[str | None]:
    """Return the outcomes of all executions of the step."""
    return [each["outcome"] for each in database.steps() if each["kind"] == "step"]


@pytest.mark.smoke
def test_many_at_once(fleet: Fleet, database: Database) -> None:
    """With both commands on an empty database, the step runs once."""
    fleet.use(step="atomic")
    started = fleet.start_together(SAFE, SAFE, STOCK, STOCK)
    assert exit_codes(started) == [0] * 4, fleet
    assert entries(database) == ["data", "seed"]
    assert outcomes(database) == ["done"]
    assert len(fleet.notes("seed")) == 1


@pytest.mark.parametrize("point", ["in the step", "recorded", "committed"])
def test_killed_at(fleet: Fleet, database: Database, point: str) -> None:
    """A step and its record commit together: a successor repeats exactly an unrecorded step."""
    fleet.use(step="atomic", kill_at=point)
    started = fleet.start_together(SAFE, SAFE, STOCK)
    assert sorted(exit_codes(started)) == [0, 0, 137], fleet
    assert entries(database) == ["data", "seed"]
    assert outcomes(database).count("done") == 1
    assert len(fleet.notes("seed")) == (1 if point == "committed" else 2)


@pytest.mark.parametrize("point", ["in the step", "recorded"])
def test_killed_on_sqlite(lite_fleet: Fleet, point: str) -> None:
    """A step and its record commit together on SQLite, too."""
    lite_fleet.use(scenario="portable", step="atomic", kill_at=point)
    assert sorted(exit_codes(lite_fleet.start_together(SAFE, SAFE))) == [0, 137]
    assert entries(lite_fleet.database).count("seed") == 1
    assert outcomes(lite_fleet.database).count("done") == 1


def test_non_atomic_step(fleet: Fleet, database: Database) -> None:
    """After a non-atomic step is killed, every replica fails until a person decides to rerun it."""
    fleet.use(step="open", kill_at="in the step", safe_init={"UNFINISHED": "report"})
    started = fleet.start_together(SAFE, SAFE)
    assert sorted(exit_codes(started)) == [1, 137], fleet
    again = fleet.run(*SAFE)
    assert again.wait() == 1
    assert "safe_migrate --rerun shop.seed" in again.json["error"]
    assert fleet.run(*SAFE, "--rerun", "shop.seed").wait() == 0, fleet
    assert entries(database) == ["data", "seed", "seed"]
    assert fleet.run(*SAFE).json["role"] == "none"


def test_followers_see_progress(fleet: Fleet, database: Database) -> None:
    """Followers print the progress that a step reports with `track()`."""
    fleet.use(step="atomic", counts="1")
    started = fleet.start_together(SAFE, SAFE)
    fleet.wait_for_note("seed")
    fleet.wait_until(
        lambda: any("shop.seed: seeds 0/10" in each.stderr for each in started),
        "a line about the step",
    )
    fleet.allow("seed")
    assert exit_codes(started) == [0, 0], fleet
    assert entries(database) == ["data", "seed"]
