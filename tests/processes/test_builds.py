"""Several builds, and databases that other programs have changed."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from example_project.embedded import bin_dir
from tests.processes.harness import Fleet, entries, exit_codes
from tests.support import Database

SAFE, STOCK = ["safe_migrate", "--json"], ["migrate"]


def test_old_and_new_build_together(fleet: Fleet, database: Database) -> None:
    """Replicas of two builds start together: all become ready, and every migration runs once."""
    old = fleet.start_together(SAFE, SAFE, STOCK, scenario="plain")
    new = fleet.start_together(SAFE, SAFE, STOCK, scenario="newer")
    assert exit_codes(old + new) == [0] * 6, fleet
    assert len(database.applied_once()) == 7
    assert entries(database) == ["data", "newer data"]


def test_old_build_behind_a_newer_database(fleet: Fleet, database: Database) -> None:
    """A replica of an old build is ready without leading if the database is ahead of it."""
    assert fleet.run(*SAFE, scenario="plain").wait() == 0, fleet
    assert fleet.run(*SAFE, scenario="newer").wait() == 0, fleet
    old = fleet.run(*SAFE, scenario="plain")
    assert (old.wait(), old.json["role"]) == (0, "none"), old
    assert len(database.runs()) == 2


@pytest.mark.smoke
def test_migrated_by_hand_before(fleet: Fleet, database: Database) -> None:
    """A database that plain Django migrated is ready, and `safe_migrate` applies nothing."""
    assert fleet.run("migrate", apps=()).wait() == 0, fleet
    status = fleet.run("safe_init_status", "--json")
    assert status.wait() == 0, status
    started = fleet.start_together(SAFE, SAFE)
    assert exit_codes(started) == [0, 0], fleet
    assert [replica.json["applied"] for replica in started] == [[], []]
    assert len(database.applied_once()) == 5
    assert entries(database) == ["data"]


def test_half_migrated_by_hand_before(fleet: Fleet, database: Database) -> None:
    """`safe_migrate` applies only the migrations that plain Django has not applied."""
    assert fleet.run("migrate", "shop", "0003", apps=()).wait() == 0, fleet
    first = fleet.run(*SAFE)
    assert first.wait() == 0, first
    shop = [name for name in first.json["applied"] if name.startswith("shop.")]
    assert shop == ["shop.0004_name_index", "shop.0005_data"]
    assert len(database.applied_once()) == 5


def tool(name: str, database: Database, *arguments: str) -> None:
    """Run a client program of PostgreSQL on `database`."""
    address = database.parameters
    options = ["-h", address["host"], "-p", str(address["port"]), "-U", address["user"]]
    command = [bin_dir(18) / name, *options, "-d", database.name, *arguments]
    subprocess.run(command, check=True, capture_output=True)


def test_dump_of_a_run_in_progress(
    fleet: Fleet,
    database: Database,
    make_database: Callable[..., Database],
    tmp_path: Path,
) -> None:
    """A dump of an unfinished run contains no lock, so `safe_migrate` initializes its copy."""
    fleet.use(scenario="gated")
    leader = fleet.start(*SAFE)
    fleet.wait_for_note("inside")
    dump = str(tmp_path / "dump.sql")
    tool("pg_dump", database, "-f", dump)
    restored = make_database()
    tool("psql", restored, "-v", "ON_ERROR_STOP=1", "-f", dump)
    assert restored.newest_run()["finished_at"] is None
    assert fleet.run("safe_init_status", database=restored).wait() in (1, 3)
    second = fleet.start(*SAFE, database=restored)
    fleet.wait_for_note("inside", 2)
    fleet.allow()
    assert exit_codes([leader, second]) == [0, 0], fleet
    assert [run["outcome"] for run in restored.runs()] == ["abandoned", "ready"]
    assert len(restored.applied_once()) == len(database.applied_once()) == 3
    assert entries(restored) == entries(database) == ["gate", "data"]
