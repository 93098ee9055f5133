"""Waiting replicas do not disturb the leader, the database server or other projects."""

from __future__ import annotations

import json
import signal
from collections import defaultdict
from collections.abc import Callable, Iterator

import psycopg
import pytest

from django_safe_init.backends.postgresql.lock_keys import leader_key
from example_project.embedded import EmbeddedServer
from tests.processes.harness import Fleet, entries, exit_codes
from tests.support import Database, wait_until

SAFE, STOCK = ["safe_migrate", "--json"], ["migrate"]
INDEXING = "state = 'active' AND query LIKE 'CREATE INDEX CONCURRENTLY%'"
#: A read holds a snapshot for a moment, which is harmless. A wait would hold it all the time.
SNAPSHOT = (
    "backend_xmin IS NOT NULL AND clock_timestamp() - xact_start > interval '0.5 s'"
)


@pytest.fixture
def session(database: Database) -> Iterator[psycopg.Connection[dict[str, object]]]:
    """Another session in the same database."""
    with database.connect() as session:
        yield session


@pytest.fixture
def small_server() -> Iterator[EmbeddedServer]:
    """A separate server with 30 connections."""
    with EmbeddedServer(18, settings={"max_connections": "30"}) as server:
        yield server


@pytest.mark.smoke
def test_concurrent_index(
    fleet: Fleet, database: Database, session: psycopg.Connection[dict[str, object]]
) -> None:
    """An index is built concurrently although other replicas wait: they hold no snapshot."""
    fleet.use(scenario="index")
    assert fleet.run("migrate", "shop", "0001").wait() == 0, fleet
    with session.transaction():
        session.execute("LOCK TABLE shop_product IN ROW EXCLUSIVE MODE")
        started = fleet.start_together(*[SAFE] * 4, STOCK, STOCK)
        fleet.wait_for_followers(5)
        fleet.wait_until(
            lambda: database.backends(INDEXING), "the index is being built"
        )
        polls: defaultdict[int, set[object]] = defaultdict(set)

        def everyone_polled_twice() -> bool:
            assert not database.backends(
                f"application_name LIKE '% waiting%' AND {SNAPSHOT}"
            )
            for follower in database.followers():
                polls[follower["pid"]].add(follower["query_start"])
            return all(len(moments) > 2 for moments in polls.values())

        wait_until(everyone_polled_twice, message="every follower polled twice")
        assert database.backends(INDEXING)
    assert exit_codes(started) == [0] * 6, fleet
    index = "pg_index WHERE indexrelid = 'shop_product_name'::regclass"
    assert database.value(f"SELECT indisvalid FROM {index}")
    assert entries(database) == ["data"]


def test_more_waiters_than_connections(
    small_server: EmbeddedServer, fleet: Fleet
) -> None:
    """With 90 waiters and 30 connections one leads, 89 follow and none fails.

    `python -m tests.benchmarks --only waiters-without-slots` does it with 300 and 100.
    """
    small_server.create_database("small")
    crowded = Database("small", small_server.params())
    fleet.use(scenario="gated", database=crowded)
    started = fleet.start_together(*[["initialize_threads", "15"]] * 6)
    try:
        fleet.wait_for_note("inside")
        fleet.wait_for_note("15 threads", 6)
        fleet.allow()
        assert exit_codes(started) == [0] * 6, fleet
        outcomes = [
            outcome for replica in started for outcome in json.loads(replica.stdout)
        ]
        roles = [outcome["role"] for outcome in outcomes]
        assert [outcome["error"] for outcome in outcomes if outcome["error"]] == []
        assert (len(roles), roles.count("leader")) == (90, 1)
        assert entries(crowded) == ["gate", "data"]
    finally:
        crowded.close()


def test_other_lock_key(
    fleet: Fleet, database: Database, session: psycopg.Connection[dict[str, object]]
) -> None:
    """A replica does not wait for the holder of another project's `LOCK_KEY`."""
    session.execute("SELECT pg_advisory_lock(%s)", [leader_key("other")])
    assert fleet.run("safe_migrate").wait() == 0, fleet
    same = fleet.run(
        "safe_migrate",
        "--timeout",
        "0.5",
        safe_init={"LOCK_KEY": "other"},
        scenario="newer",
    )
    assert same.wait() == 3, same


def test_two_databases_of_one_server(
    fleet: Fleet, database: Database, make_database: Callable[..., Database]
) -> None:
    """Two databases of one server are initialized at the same time, each by its own leader."""
    other = make_database()
    fleet.use(scenario="gated")
    started = fleet.start_together(SAFE, SAFE)
    started += fleet.start_together(SAFE, SAFE, database=other)
    fleet.wait_for_note("inside", 2)
    fleet.allow()
    assert exit_codes(started) == [0] * 4, fleet
    for each in (database, other):
        assert each.applied_once() == [
            "shop.0001_initial",
            "shop.0002_gate",
            "shop.0003_data",
        ]
        assert entries(each) == ["gate", "data"]


@pytest.mark.parametrize("command", ["safe_migrate", "migrate"])
def test_giving_up(
    fleet: Fleet,
    database: Database,
    session: psycopg.Connection[dict[str, object]],
    command: str,
) -> None:
    """A follower that gives up exits 3, and names the holder and the command that ends it."""
    session.execute("SELECT pg_advisory_lock(%s)", [leader_key()])
    waiter = fleet.run(command, safe_init={"WAIT_TIMEOUT": 0.5})
    assert waiter.wait() == 3, waiter
    assert f"pg_terminate_backend({session.info.backend_pid})" in waiter.stderr
    assert database.applied_counts() == {}


def test_total_time(fleet: Fleet, database: Database) -> None:
    """`--timeout` also ends the wait for a leader that makes progress."""
    fleet.use(scenario="gated")
    leader = fleet.start(*SAFE)
    fleet.wait_for_note("inside")
    waiter = fleet.run("safe_migrate", "--json", "--timeout", "0.5")
    assert waiter.wait() == 3, waiter
    report = waiter.json
    assert (report["result"], report["role"]) == ("timeout", "follower")
    assert report["waited_seconds"] >= 0.5
    fleet.allow()
    assert leader.wait() == 0, leader


def test_output_of_a_follower(fleet: Fleet, database: Database) -> None:
    """A follower prints the leader, its migration and its progress."""
    fleet.use(scenario="gated")
    leader = fleet.start(*SAFE)
    fleet.wait_for_note("inside")
    follower = fleet.start("safe_migrate")
    fleet.wait_for_followers(1)
    total = database.newest_run()["total"]
    for words in (database.newest_run()["leader"], "shop.0002_gate", f"/{total}"):
        wait_until(
            lambda words=words: words in follower.stderr, message=f"{words}: {follower}"
        )
    fleet.allow()
    assert exit_codes([leader, follower]) == [0, 0], fleet
    assert "waiting" not in follower.stdout


@pytest.mark.parametrize(
    "how", [{"env": {"DB_INIT_MODE": "external"}}, {"option": "external"}]
)
def test_external(fleet: Fleet, database: Database, how: dict[str, object]) -> None:
    """In the mode `external`, `safe_migrate` waits for another process and never leads."""
    option = ["--mode", str(how["option"])] if "option" in how else []
    environment = {"env": how["env"]} if "env" in how else {}
    waiter = fleet.start("safe_migrate", "--json", *option, **environment)
    wait_until(lambda: waiter.stderr or database.followers(), message=repr(waiter))
    assert database.applied_counts() == {}
    assert fleet.run("migrate").wait() == 0, fleet
    assert waiter.wait() == 0, waiter
    assert (waiter.json["result"], waiter.json["applied"]) == ("ready", [])


def test_one_name_for_the_leader(fleet: Fleet, database: Database) -> None:
    """A follower, `safe_init_unlock` and the status after a death name the leader alike."""
    fleet.use(scenario="gated")
    leader = fleet.start(*SAFE)
    fleet.wait_for_note("inside")
    follower = fleet.start("safe_migrate", "--mode", "external")
    title = f"the leader {database.newest_run()['leader']} of run 1"
    assert title.endswith(f":{leader.pid} of run 1")
    wait_until(
        lambda: f"waiting for {title}, for " in follower.stderr, message=repr(follower)
    )
    assert "(pid " not in follower.stderr
    unlock = fleet.run("safe_init_unlock")
    assert unlock.wait() == 1, unlock
    assert unlock.stdout.startswith(f"default: {title} (safe_migrate), for ")
    leader.kill(signal.SIGKILL)
    leader.wait()
    status = fleet.run("safe_init_status")
    assert status.wait() == 1, status
    assert status.stdout.startswith(f"default: error - {title} died in ")
