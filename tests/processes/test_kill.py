"""SIGKILL of the leader at every critical moment: a waiter takes over and repeats nothing."""

from __future__ import annotations

import pytest

from tests.processes.harness import Fleet, entries, exit_codes
from tests.support import Database, wait_until

SAFE, STOCK = ["safe_migrate", "--json"], ["migrate"]
SLEEPING = "state = 'active' AND query LIKE '%pg_sleep%'"
PLAIN = {
    "between migrations": "apply_success shop.0001_initial",
    "before recording deferred SQL": "before record_applied shop.0002_sale",
    "after recording deferred SQL": "after record_applied shop.0002_sale",
    "before recording data": "before record_applied shop.0005_data",
    "after the last migration": "apply_success shop.0005_data",
    "before post_migrate": "post_migrate",
}


def invalid_indexes(database: Database) -> int:
    return int(database.value("SELECT count(*) FROM pg_index WHERE NOT indisvalid"))


@pytest.mark.parametrize(
    "point",
    [
        pytest.param(
            point, id=name, marks=[pytest.mark.smoke] if "deferred" in name else []
        )
        for name, point in PLAIN.items()
    ],
)
def test_killed_at(fleet: Fleet, database: Database, point: str) -> None:
    """The leader dies at a chosen point; the others exit 0 and record each migration once."""
    fleet.use(kill_at=point)
    started = fleet.start_together(SAFE, SAFE, SAFE, STOCK)
    assert sorted(exit_codes(started)) == [0, 0, 0, 137], fleet
    assert len(database.applied_once()) == 5
    assert entries(database) == ["data"]
    assert database.value("SELECT count(*) FROM auth_permission") > 0
    outcomes = [run["outcome"] for run in database.runs()]
    assert outcomes[0] == "abandoned"
    assert outcomes[-1] == "ready"


@pytest.mark.parametrize("command", [SAFE, STOCK], ids=["safe_migrate", "migrate"])
def test_a_later_start_goes_on(
    fleet: Fleet, database: Database, command: list[str]
) -> None:
    """The next start continues the work of a leader that died without followers."""
    fleet.use(kill_at=PLAIN["before recording deferred SQL"])
    assert fleet.run(*command).wait() == 137
    assert fleet.run(*command).wait() == 0, fleet
    assert len(database.applied_once()) == 5


def test_between_concurrent_index_and_its_record(
    fleet: Fleet, database: Database
) -> None:
    """The successor replaces the index of a leader that died before recording the migration."""
    fleet.use(scenario="index", kill_at="before record_applied shop.0002_name_index")
    started = fleet.start_together(SAFE, SAFE, SAFE)
    assert sorted(exit_codes(started)) == [0, 0, 137], fleet
    assert len(database.applied_once()) == 3
    assert database.value("SELECT to_regclass('shop_product_name') IS NOT NULL")
    assert invalid_indexes(database) == 0


def test_inside_concurrent_index(fleet: Fleet, database: Database) -> None:
    """The successor replaces the invalid index of a leader that died during the build."""
    fleet.use(scenario="index")
    assert fleet.run("migrate", "shop", "0001").wait() == 0, fleet
    with database.connect() as session, session.transaction():
        session.execute("LOCK TABLE shop_product IN ROW EXCLUSIVE MODE")
        started = fleet.start_together(SAFE, SAFE, SAFE)
        fleet.wait_for_followers(2)
        wait_until(
            lambda: invalid_indexes(database), message="the index is being built"
        )
        fleet.leader().kill()
    assert sorted(exit_codes(started)) == [0, 0, 137], fleet
    assert database.value("SELECT to_regclass('shop_product_name') IS NOT NULL")
    assert invalid_indexes(database) == 0
    assert entries(database) == ["data"]


def test_between_undoing_and_recording_it(fleet: Fleet, database: Database) -> None:
    """A reversal and its record commit together: a leader that dies in between reverses nothing."""
    assert fleet.run("migrate").wait() == 0, fleet
    fleet.use(kill_at="before record_unapplied shop.0003_view")
    back = ["migrate", "shop", "0001"]
    assert sorted(exit_codes(fleet.start_together(back, back))) == [0, 137], fleet
    assert database.applied_once() == ["shop.0001_initial"]
    assert database.value("SELECT to_regclass('shop_sale')") is None
    assert fleet.run("safe_migrate").wait() == 0, fleet
    assert len(database.applied_once()) == 5


@pytest.mark.parametrize("atomic", ["1", "0"], ids=["atomic", "non-atomic"])
def test_inside_a_long_statement(fleet: Fleet, database: Database, atomic: str) -> None:
    """The statement of a killed leader ends before its successor starts, and never commits."""
    fleet.use(scenario="statement", atomic=atomic)
    started = fleet.start_together(SAFE, SAFE, SAFE)
    fleet.wait_for_followers(2)
    fleet.wait_until(lambda: database.backends(SLEEPING), "the statement runs")
    fleet.leader().kill()
    assert sorted(exit_codes(started)) == [0, 0, 137], fleet
    assert [text for _, text in fleet.notes("successor")] == [
        "successor, still running: 0"
    ]
    assert entries(database) == ["successor"]
    assert len(database.applied_once()) == 2


@pytest.mark.smoke
def test_inside_python(fleet: Fleet, database: Database) -> None:
    """A leader killed inside `RunPython` leaves no changes of that migration."""
    fleet.use(scenario="gated")
    started = fleet.start_together(SAFE, SAFE, STOCK)
    fleet.wait_for_note("inside")
    fleet.wait_for_followers(2)
    fleet.leader().kill()
    fleet.wait_for_note("inside", 2)
    assert database.applied_once() == ["shop.0001_initial"]
    fleet.allow()
    assert sorted(exit_codes(started)) == [0, 0, 137], fleet
    assert entries(database) == ["gate", "data"]
    assert [run["outcome"] for run in database.runs()][:2] == ["abandoned", "ready"]


def test_with_threads_at_work(fleet: Fleet, database: Database) -> None:
    """The statements of a killed leader's threads end before the successor starts."""
    fleet.use(scenario="threads")
    started = fleet.start_together(SAFE, SAFE, SAFE)
    fleet.wait_for_note("entered", 8)
    fleet.wait_for_followers(2)
    dead = fleet.leader()
    dead.kill()
    assert sorted(exit_codes(started)) == [0, 0, 137], fleet
    late = "SELECT count(*) FROM shop_entry WHERE pid = %s AND at > %s"
    second = max(step["started_at"] for step in database.steps())
    assert (
        database.value("SELECT count(*) FROM shop_entry WHERE pid = %s", dead.pid) >= 8
    )
    assert database.value(late, dead.pid, second) == 0
    assert database.value("SELECT count(*) FROM shop_entry WHERE text = 'main'") == 1
