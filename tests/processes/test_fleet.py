"""Many replicas on an empty database: one does all the work, the others follow, none fails."""

from __future__ import annotations

import re

import pytest

from tests.processes.harness import Fleet, Replica, entries, exit_codes
from tests.support import Database

PLAIN = [
    "shop.0001_initial",
    "shop.0002_sale",
    "shop.0003_view",
    "shop.0004_name_index",
    "shop.0005_data",
]
SAFE, STOCK = ["safe_migrate", "--json"], ["migrate"]


def assert_done_once(fleet: Fleet, database: Database) -> None:
    """Assert that every migration ran and is recorded once, in one run, with `post_migrate`."""
    assert database.applied_once() == PLAIN
    assert entries(database) == ["data"]
    assert len(fleet.notes("data")) == 1
    steps = database.steps()
    assert {step["outcome"] for step in steps} == {"done"}
    assert len({step["run_id"] for step in steps}) == 1
    assert (
        database.value(
            "SELECT count(*) FROM auth_permission WHERE codename = 'add_sale'"
        )
        == 1
    )


@pytest.mark.parametrize("replicas", [pytest.param(2, marks=pytest.mark.smoke), 10, 50])
def test_both_commands_mixed(fleet: Fleet, database: Database, replicas: int) -> None:
    """Any number of `safe_migrate` and `migrate` processes exit 0, and each migration runs once."""
    stock = max(1, replicas // 5)
    started = fleet.start_together(*[SAFE] * (replicas - stock), *[STOCK] * stock)
    assert exit_codes(started) == [0] * replicas, fleet
    assert_done_once(fleet, database)
    applied = [replica.json["applied"] for replica in started[:-stock]]
    assert sum(map(bool, applied)) <= 1
    assert {run["outcome"] for run in database.runs()} == {"ready"}


@pytest.mark.smoke
def test_one_leads_and_the_others_follow(fleet: Fleet, database: Database) -> None:
    """Of six `safe_migrate` processes one leads and sends the signals, and the others follow."""
    started = fleet.start_together(*[SAFE] * 6)
    assert exit_codes(started) == [0] * 6, fleet
    assert_done_once(fleet, database)
    reports = [replica.json for replica in started]
    assert {report["result"] for report in reports} == {"ready"}
    (leader,) = (report for report in reports if report["role"] == "leader")
    assert [name for name in leader["applied"] if name.startswith("shop.")] == PLAIN
    assert not any(r["applied"] for r in reports if r is not leader)
    assert len(fleet.notes("post_migrate")) == 1
    (run,) = database.runs()
    assert (run["outcome"], run["state"], run["progress"]) == ("ready", "ready", 100)
    assert run["done"] == run["total"] == len(database.applied_counts())
    assert leader["run"] == run["id"]


@pytest.mark.smoke
def test_nothing_to_do(fleet: Fleet, database: Database) -> None:
    """A start on a database that this build has initialized opens no run."""
    assert fleet.run("safe_migrate").wait() == 0, fleet
    again = fleet.run("safe_migrate", "--json")
    assert again.wait() == 0, again
    assert (again.json["role"], again.json["applied"]) == ("none", [])
    assert len(database.runs()) == 1
    assert len(fleet.notes("post_migrate")) == 1


def test_forced(fleet: Fleet, database: Database) -> None:
    """`--force` leads without pending migrations and sends the signals again."""
    assert fleet.run("safe_migrate").wait() == 0, fleet
    forced = fleet.run("safe_migrate", "--force", "--json")
    assert forced.wait() == 0, forced
    assert (forced.json["role"], forced.json["applied"]) == ("leader", [])
    assert len(fleet.notes("post_migrate")) == 2


#: Modules that only a leader, a follower or a detailed status needs.
FOR_WORK = {
    "backends.postgresql.activity",
    "initialization.election",
    "initialization.follower",
    "initialization.leader",
    "initialization.tracker",
    "validation",
}


def test_a_start_with_nothing_to_do_is_light(fleet: Fleet) -> None:
    """A start with nothing to do does not import the modules of a leader or a follower."""
    leading, idle = (
        fleet.run(*SAFE, wrapper=["env", "PYTHONPROFILEIMPORTTIME=1"]) for _ in range(2)
    )
    assert [leading.json["role"], idle.json["role"]] == ["leader", "none"]
    assert imported(leading) >= FOR_WORK - {"initialization.follower"}
    assert imported(idle) & FOR_WORK == set()


def imported(replica: Replica) -> set[str]:
    """Return the modules of this package that the replica has imported."""
    names = re.findall(r"\| +django_safe_init\.([\w.]+)$", replica.stderr, re.MULTILINE)
    return set(names)
