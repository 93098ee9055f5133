"""A migration that reports progress with `track()`: followers and status commands show it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.processes.harness import Fleet
from tests.support import Database, SqliteDatabase

SAFE = ["safe_migrate", "--json"]
DOING = "shop.0002_tracking: secret rows 2/4"


def status(fleet: Fleet, *options: str) -> Any:
    return fleet.run("safe_init_status", *options)


def watch_and_finish(fleet: Fleet) -> None:
    fleet.use(scenario="tracking")
    started = fleet.start_together(SAFE, SAFE)
    fleet.wait_for_note("inside")
    watcher = fleet.start("safe_init_status", "--watch")
    fleet.wait_until(
        lambda: any(DOING in each.stderr for each in started), "a follower's line"
    )
    fleet.wait_until(lambda: DOING in watcher.stdout, "a watcher's line")
    assert DOING in status(fleet).stdout
    document = status(fleet, "--json").json
    run = document["run"]
    assert (run["item_done"], run["item_total"], run["item_message"]) == (
        2,
        4,
        "secret rows",
    )
    assert document["progress"] == run["progress"]
    fleet.allow()
    assert [each.wait() for each in (*started, watcher)] == [0, 0, 0], fleet
    assert status(fleet, "--json").json["run"]["item_done"] is None


def test_postgresql(fleet: Fleet, database: Database) -> None:
    """A follower, a watcher, and the status in both formats show the progress."""
    watch_and_finish(fleet)


def test_sqlite(lite_fleet: Fleet, lite: SqliteDatabase) -> None:
    """The progress also shows on SQLite, whose tables are locked during the migration."""
    watch_and_finish(lite_fleet)


@pytest.mark.parametrize("seconds", [3])
def test_a_follower_that_gives_up(fleet: Fleet, seconds: int) -> None:
    """A follower that reaches WAIT_TIMEOUT prints the leader's last progress."""
    fleet.use(scenario="tracking")
    leader = fleet.start(*SAFE)
    fleet.wait_for_note("inside")
    follower = fleet.run(*SAFE, safe_init={"WAIT_TIMEOUT": seconds})
    assert follower.wait() == 3, follower
    assert DOING in follower.json["error"]
    fleet.allow()
    assert leader.wait() == 0, leader
