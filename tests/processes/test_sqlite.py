"""Fleets on one SQLite file behave as on a database server."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from django_safe_init.backends.sqlite3.lock_file import holder_pid
from tests.processes.harness import Fleet, entries, exit_codes
from tests.processes.test_fleet import assert_done_once
from tests.processes.test_kill import PLAIN
from tests.support import SqliteDatabase

SAFE, STOCK = ["safe_migrate", "--json"], ["migrate"]
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("replicas", [pytest.param(2, marks=pytest.mark.smoke), 20])
def test_both_commands_mixed(
    lite_fleet: Fleet, lite: SqliteDatabase, replicas: int
) -> None:
    """Any number of processes on one file exit 0, and each migration runs once, in one of them."""
    stock = max(1, replicas // 5)
    started = lite_fleet.start_together(*[SAFE] * (replicas - stock), *[STOCK] * stock)
    assert exit_codes(started) == [0] * replicas, lite_fleet
    assert_done_once(lite_fleet, lite)
    applied = [replica.json["applied"] for replica in started[:-stock]]
    assert sum(map(bool, applied)) <= 1
    assert {run["outcome"] for run in lite.runs()} == {"ready"}


def test_one_leads_and_the_others_follow(
    lite_fleet: Fleet, lite: SqliteDatabase
) -> None:
    """Followers print the leader and its progress, and become ready with the leader."""
    lite_fleet.use(scenario="gated")
    started = lite_fleet.start_together(SAFE, SAFE, SAFE)
    lite_fleet.wait_for_note("inside")
    lite_fleet.wait_for_followers(2)
    leader = lite_fleet.leader()
    lite_fleet.allow()
    assert exit_codes(started) == [0, 0, 0], lite_fleet
    assert leader.json["role"] == "leader"
    [run] = lite.runs()
    assert (run["outcome"], run["state"], run["progress"]) == ("ready", "ready", 100)
    assert run["done"] == run["total"] == len(lite.applied_counts())
    for follower in (each for each in started if each is not leader):
        assert (follower.json["role"], follower.json["run"]) == ("follower", run["id"])
        # Before the run is open, only the lock file names the leader's process.
        assert re.search(
            rf"waiting for (the leader {run['leader']} of run {run['id']}, for "
            rf"|a leader that has opened no run yet: the leader {run['leader']}\n)",
            follower.stderr,
        )


def test_nothing_to_do(lite_fleet: Fleet, lite: SqliteDatabase) -> None:
    """A start on an initialized file opens no run and takes no lock."""
    assert lite_fleet.run("safe_migrate").wait() == 0, lite_fleet
    lite.lock.unlink()
    again = lite_fleet.run(*SAFE)
    assert again.wait() == 0, again
    assert (again.json["role"], again.json["run"]) == ("none", 1)
    assert not lite.lock.exists()
    assert len(lite.runs()) == 1


@pytest.mark.parametrize("point", PLAIN.values(), ids=PLAIN.keys())
def test_killed_at(lite_fleet: Fleet, lite: SqliteDatabase, point: str) -> None:
    """The leader dies at a chosen point; the others exit 0 and record each migration once."""
    lite_fleet.use(kill_at=point)
    started = lite_fleet.start_together(SAFE, SAFE, SAFE, STOCK)
    assert sorted(exit_codes(started)) == [0, 0, 0, 137], lite_fleet
    assert len(lite.applied_once()) == 5
    assert entries(lite) == ["data"]
    assert lite.value("SELECT count(*) FROM auth_permission") > 0
    outcomes = [run["outcome"] for run in lite.runs()]
    assert (outcomes[0], outcomes[-1]) == ("abandoned", "ready")


def test_between_undoing_and_recording_it(
    lite_fleet: Fleet, lite: SqliteDatabase
) -> None:
    """A reversal and its record commit together: a leader that dies in between reverses nothing."""
    assert lite_fleet.run("migrate").wait() == 0, lite_fleet
    lite_fleet.use(kill_at="before record_unapplied shop.0003_view")
    back = ["migrate", "shop", "0001"]
    codes = exit_codes(lite_fleet.start_together(back, back))
    assert sorted(codes) == [0, 137], lite_fleet
    assert lite.applied_once() == ["shop.0001_initial"]
    assert not lite.has_table("shop_sale")
    assert lite_fleet.run("safe_migrate").wait() == 0, lite_fleet
    assert len(lite.applied_once()) == 5


@pytest.mark.parametrize("atomic", ["1", "0"], ids=["atomic", "non-atomic"])
def test_killed_inside_a_long_statement(
    lite_fleet: Fleet, lite: SqliteDatabase, atomic: str
) -> None:
    """The statement of a killed leader is rolled back, and a follower leads promptly."""
    lite_fleet.use(scenario="statement", atomic=atomic)
    started = lite_fleet.start_together(SAFE, SAFE, SAFE)
    lite_fleet.wait_for_note("inside")
    lite_fleet.wait_for_followers(2)
    leader = lite_fleet.leader()
    leader.kill()
    lite_fleet.wait_until(lambda: len(lite.runs()) > 1, "a second run")
    assert sorted(exit_codes(started)) == [0, 0, 137], lite_fleet
    assert entries(lite) == ["successor"]


def test_a_child_does_not_keep_the_lock(
    lite_fleet: Fleet, lite: SqliteDatabase
) -> None:
    """The lock of a dead leader is free although its child lives with the inherited files."""
    lite_fleet.use(scenario="forking")
    started = lite_fleet.start_together(SAFE, SAFE)
    [(child, _)] = lite_fleet.wait_for_note("child")
    lite_fleet.wait_for_followers(1)
    lite_fleet.leader().kill()
    assert sorted(exit_codes(started)) == [0, 137], lite_fleet
    assert entries(lite) == ["after the fork"]
    os.kill(child, 0)
    lite_fleet.allow("child")


@pytest.mark.parametrize("atomic", ["1", "0"], ids=["atomic", "non-atomic"])
def test_a_long_statement_is_interrupted(
    lite_fleet: Fleet, lite: SqliteDatabase, atomic: str
) -> None:
    """SIGTERM interrupts a running statement, and SQLite rolls it back."""
    lite_fleet.use(scenario="statement", atomic=atomic)
    leader = lite_fleet.start(*SAFE)
    lite_fleet.wait_for_note("inside")
    lite_fleet.wait_until(lambda: lite.steps()[-1]["name"] == "shop.0002_statement", "")
    leader.kill(signal.SIGTERM)
    assert leader.wait() == 143, leader
    assert leader.json["result"] == "interrupted"
    assert holder_pid(str(lite.lock)) is None
    assert lite.newest_run()["outcome"] == "interrupted"
    assert lite_fleet.run("safe_migrate").wait() == 0, lite_fleet
    assert entries(lite) == ["successor"]


def test_an_interruption_is_not_swallowed(
    lite_fleet: Fleet, lite: SqliteDatabase
) -> None:
    """A migration that catches every error cannot continue after a signal."""
    lite_fleet.use(scenario="swallowing")
    leader = lite_fleet.start(*SAFE)
    lite_fleet.wait_for_note("inside")
    leader.kill(signal.SIGTERM)
    assert leader.wait() == 143, leader
    assert lite_fleet.notes("swallowed") == []
    assert lite.applied_once() == ["shop.0001_initial"]
    assert entries(lite) == []
    assert lite_fleet.run(*SAFE).wait() == 0, lite_fleet
    assert entries(lite) == ["before", "after"]


def test_waiters_share_the_failure(lite_fleet: Fleet, lite: SqliteDatabase) -> None:
    """Ten waiters exit 1 with the leader's reason; the migration runs once."""
    lite_fleet.use(scenario="failing")
    started = lite_fleet.start_together(*[SAFE] * 11)
    lite_fleet.wait_for_note("inside")
    lite_fleet.wait_for_followers(10)
    lite_fleet.allow()
    assert exit_codes(started) == [1] * 11, lite_fleet
    [run] = lite.runs()
    assert (run["outcome"], run["state"]) == ("failed", "error")
    for replica in started:
        assert "product 7 has no price" in replica.json["error"]
    assert len(lite_fleet.notes("inside")) == 1
    assert lite.applied_once() == ["shop.0001_initial"]
    assert entries(lite) == []


def test_migration_that_kills_its_process(
    lite_fleet: Fleet, lite: SqliteDatabase
) -> None:
    """A migration that kills its process kills three; the others exit 1 and name the migration."""
    lite_fleet.use(scenario="deadly")
    started = lite_fleet.start_together(*[SAFE] * 5)
    assert sorted(exit_codes(started)) == [1, 1, 137, 137, 137], lite_fleet
    for survivor in (each for each in started if each.wait() == 1):
        assert "3 times in a row" in survivor.json["error"]
        assert "shop.0002_deadly" in survivor.json["error"]
    assert lite.applied_once() == ["shop.0001_initial"]


def test_takeover_with_a_short_timeout(lite_fleet: Fleet, lite: SqliteDatabase) -> None:
    """With a short SQLite timeout, a follower still takes over after a signal to the leader."""
    lite_fleet.use(scenario="gated", database_settings={"OPTIONS": {"timeout": 0.2}})
    leader = lite_fleet.start(*SAFE)
    lite_fleet.wait_for_note("inside")
    follower = lite_fleet.start(*SAFE)
    lite_fleet.wait_for_followers(1)
    leader.kill(signal.SIGTERM)
    assert leader.wait() == 143, leader
    lite_fleet.wait_for_note("inside", 2)
    lite_fleet.allow()
    assert follower.wait() == 0, follower
    assert [run["outcome"] for run in lite.runs()] == ["interrupted", "ready"]


def test_fifty_files_side_by_side(lite_fleet: Fleet, tmp_path: Path) -> None:
    """Fifty files in one process have separate locks and runs; one fails, the others are ready."""
    others = {f"other{n}": SqliteDatabase(tmp_path / f"{n}.sqlite3") for n in range(49)}
    aliases = ["default", *others]
    lite_fleet.use(
        scenario="failing_one", databases=others, safe_init={"DATABASES": aliases}
    )
    replica = lite_fleet.start("safe_migrate", "--json", "--jobs", "8", fails="other7")
    assert replica.wait() == 1, replica
    ended = {each["database"]: each for each in replica.json["databases"]}
    assert len(ended) == 50
    assert "other7" in next(iter(ended))
    assert ended.pop("other7")["result"] == "failed"
    assert {each["result"] for each in ended.values()} == {"ready"}
    for alias in ended:
        database = others.get(alias, lite_fleet.database)
        assert [run["outcome"] for run in database.runs()] == ["ready"]
        assert entries(database) == [alias]
    assert others["other7"].newest_run()["outcome"] == "failed"


def test_without_psycopg(
    lite_fleet: Fleet, lite: SqliteDatabase, tmp_path: Path
) -> None:
    """A project on SQLite needs no psycopg to initialize, to watch and to unlock."""
    (tmp_path / "psycopg.py").write_text("raise ImportError('there is no psycopg')")
    lite_fleet.use(env={"PYTHONPATH": str(tmp_path)})
    for command in (
        ["safe_migrate"],
        ["migrate"],
        ["safe_init_status", "--watch", "--history", "3"],
        ["safe_init_unlock", "--noinput"],
        ["safe_migrate", "--check"],
        ["check"],
    ):
        replica = lite_fleet.run(*command)
        assert replica.wait() == 0, replica


def test_unlock(lite_fleet: Fleet, lite: SqliteDatabase) -> None:
    """`safe_init_unlock` describes and ends the leader; a follower leads promptly."""
    lite_fleet.use(scenario="gated")
    started = lite_fleet.start_together(SAFE, SAFE)
    lite_fleet.wait_for_note("inside")
    lite_fleet.wait_for_followers(1)
    leader = lite_fleet.leader()
    unlock = lite_fleet.run("safe_init_unlock", "--noinput")
    assert unlock.wait() == 0, unlock
    lite_fleet.wait_for_note("inside", 2)
    assert f":{leader.pid} (leader lock): {leader.command[0]}" in unlock.stdout
    assert "of run 1 (safe_migrate)" in unlock.stdout
    assert unlock.stdout.endswith("default: ended; a replica that waits takes over\n")
    lite_fleet.allow()
    assert sorted(exit_codes(started)) == [0, 143], lite_fleet


def test_unlock_a_stopped_leader(lite_fleet: Fleet, lite: SqliteDatabase) -> None:
    """A follower of a stopped leader gives up and prints a remedy that ends the leader."""
    lite_fleet.use(scenario="gated", safe_init={"WAIT_TIMEOUT": 1})
    leader = lite_fleet.start(*SAFE)
    lite_fleet.wait_for_note("inside")
    with leader.stopped():
        os.utime(lite.lock, (0, 0))  # as if it had been stopped for long
        waiter = lite_fleet.run(*SAFE)
        assert waiter.wait() == 3, waiter
        assert (
            "To end the leader: python manage.py safe_init_unlock"
            in waiter.json["error"]
        )
        unlock = lite_fleet.run("safe_init_unlock", "--noinput")
        assert unlock.wait() == 0, unlock
        assert leader.wait() == 137
    lite_fleet.allow()
    assert lite_fleet.run(*SAFE).wait() == 0, lite_fleet


#: Variables that coverage sets for children. Another user could not write its files.
MEASURING = ("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG")
OTHER_USER = ["setpriv", "--reuid", "65534", "--clear-groups"]


def other_user_can_run_it() -> bool:
    """Return True if another user can read the project and run its interpreter."""
    try:
        return not subprocess.call(
            [*OTHER_USER, sys.executable, "-c", "import django, tests"],
            cwd=ROOT,
            stderr=subprocess.DEVNULL,
        )
    except FileNotFoundError:
        return False


@pytest.fixture
def public() -> Iterator[Fleet]:
    """A fleet in a folder that every user can read."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        made = Fleet(SqliteDatabase(folder / "db.sqlite3"), folder)
        try:
            yield made
        finally:
            made.end()


@pytest.mark.skipif(
    not other_user_can_run_it(), reason="needs root, and a public checkout"
)
def test_leader_of_another_user(public: Fleet) -> None:
    """Another user can neither end the leader nor lead: one sentence says so in each case."""
    public.use(scenario="gated", env=dict.fromkeys(MEASURING))
    leader = public.start(*SAFE)
    public.wait_for_note("inside")
    unlock = public.start("safe_init_unlock", "--noinput", wrapper=OTHER_USER)
    assert unlock.wait() == 1, unlock
    assert f"an administrator can: kill {leader.pid}" in unlock.stderr
    public.allow()
    assert leader.wait() == 0, leader
    other = public.start("safe_migrate", "--force", "--json", wrapper=OTHER_USER)
    assert other.wait() == 2, other
    assert other.json["result"] == "unsafe"
    assert "The leader lock cannot be opened: Permission denied" in other.json["error"]


def test_in_memory(lite_fleet: Fleet) -> None:
    """`safe_migrate` migrates a database in memory as plain Django does."""
    memory = {"database_settings": {"NAME": ":memory:"}}
    replica = lite_fleet.run(*SAFE, **memory)
    assert replica.wait() == 0, replica
    assert (replica.json["role"], replica.json["run"]) == ("none", None)
    status = lite_fleet.run("safe_init_status", **memory)
    assert status.wait() == 3, status
    assert lite_fleet.run("safe_init_unlock", **memory).wait() == 0


def test_status_of_a_run(lite_fleet: Fleet, lite: SqliteDatabase) -> None:
    """Status, history and the watch show the leader's progress, also inside a migration."""
    lite_fleet.use(scenario="gated")
    leader = lite_fleet.start(*SAFE)
    lite_fleet.wait_for_note("inside")
    status = lite_fleet.run("safe_init_status", "--json", "--history", "1")
    assert status.wait() == 3, status
    shown = status.json
    assert (shown["state"], shown["led"]) == ("migrating", True)
    assert "shop.0002_gate" in shown["message"]
    assert shown["run"]["backend_pid"] == leader.pid
    assert shown["run"]["started_at"].endswith("+00:00")
    assert shown["run"]["silence_seconds"] <= shown["run"]["age_seconds"]
    assert shown["history"] == [shown["run"]] or shown["history"][0]["id"] == 1
    watching = lite_fleet.start("safe_init_status", "--watch")
    lite_fleet.wait_until(lambda: "shop.0002_gate" in watching.stdout, "a line")
    lite_fleet.allow()
    assert (leader.wait(), watching.wait()) == (0, 0), lite_fleet


def test_locked_by_another_session(lite_fleet: Fleet, lite: SqliteDatabase) -> None:
    """While another session locks the whole file, readers report the lock and do not fail."""
    assert lite_fleet.run(*SAFE).wait() == 0, lite_fleet
    with lite.connect() as raw, closing(raw.cursor()) as cursor:
        cursor.execute("BEGIN EXCLUSIVE")
        status = lite_fleet.run("safe_init_status")
        assert status.wait() == 3, status
        assert "locked" in status.stdout
        waiting = lite_fleet.start(*SAFE)
        lite_fleet.wait_until(lambda: "are locked" in waiting.stderr, "a line")
        cursor.execute("COMMIT")
    assert waiting.wait() == 0, waiting
