"""A fleet whose migration waits for a lock: all replicas print the blocking session."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from tests.processes.harness import Fleet, exit_codes
from tests.support import Database

SAFE = ["safe_migrate", "--json"]
LIMIT = {"DDL_LOCK_TIMEOUT": 0.3}


def initialized(fleet: Fleet) -> None:
    fleet.use(scenario="altering")
    assert fleet.run("migrate", "shop", "0001").wait() == 0, fleet


def hold(raw: Any) -> None:
    raw.execute("BEGIN; SELECT count(*) FROM shop_product")


def test_the_fleet_waits_and_goes_on(fleet: Fleet, database: Database) -> None:
    """The leader and the followers name the blocking session; after its end all become ready."""
    initialized(fleet)
    with closing(database.connect(application_name="report")) as raw:
        hold(raw)
        patient = {**LIMIT, "DDL_ATTEMPTS": 1000}
        started = fleet.start_together(*[SAFE] * 3, safe_init=patient)
        fleet.wait_for_followers(2)
        blocker = f"blocked by pid {raw.info.backend_pid} (role postgres, report"
        told = "shop.0002_stock is undone, and tried again in "
        fleet.wait_until(
            lambda: any(
                told in each.stderr and blocker in each.stderr for each in started
            ),
            "the leader says who blocks it",
        )
        fleet.wait_until(
            lambda: (
                sum(
                    "shop.0002_stock (attempt " in each.stderr
                    and blocker in each.stderr
                    for each in started
                )
                == 2
            ),
            "the followers say who blocks it",
        )
    assert exit_codes(started) == [0, 0, 0], fleet
    assert database.applied_once() == ["shop.0001_initial", "shop.0002_stock"]
    assert database.newest_run()["outcome"] == "ready"


def test_it_gives_up(fleet: Fleet, database: Database) -> None:
    """After the last attempt the leader exits 1 with the remedy, and nothing is applied."""
    initialized(fleet)
    limit = {**LIMIT, "DDL_ATTEMPTS": 1}
    with closing(database.connect(application_name="report")) as raw:
        hold(raw)
        replica = fleet.run(*SAFE, safe_init=limit)
        assert replica.wait() == 1, replica
        pid = raw.info.backend_pid
    error = replica.json["error"]
    assert error.startswith(
        "shop.0002_stock did not get a lock within 0.3 s (attempts: 1)"
    )
    assert f"SELECT pg_terminate_backend({pid});" in error
    assert database.newest_run()["outcome"] == "transient"
    assert database.applied_once() == ["shop.0001_initial"]


def test_terminated_while_it_pauses(fleet: Fleet, database: Database) -> None:
    """SIGTERM between two attempts ends the run at once, as interrupted."""
    initialized(fleet)
    with closing(database.connect()) as raw:
        hold(raw)
        replica = fleet.start(*SAFE, safe_init={"DDL_LOCK_TIMEOUT": 5})
        # The pause is about as long as the lock timeout.
        fleet.wait_until(lambda: "tried again in" in replica.stderr, "a first attempt")
        replica.kill(15)
        assert replica.wait() == 143, replica
    assert database.newest_run()["outcome"] == "interrupted"


def test_without_a_limit(fleet: Fleet, database: Database) -> None:
    """Without a lock timeout the leader names the blocking session and the way to terminate it."""
    initialized(fleet)
    with closing(database.connect(application_name="report")) as raw:
        hold(raw)
        leader = fleet.start(*SAFE)
        pid = raw.info.backend_pid
        told = f"shop.0002_stock is blocked by pid {pid} (role postgres, report, from "
        fleet.wait_until(lambda: told in leader.stderr, "the leader says who blocks it")
        assert f"To end it: SELECT pg_terminate_backend({pid});" in leader.stderr
    assert leader.wait() == 0, leader
