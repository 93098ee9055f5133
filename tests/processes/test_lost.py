"""Connections that an administrator, the migration or the database server ends during a run."""

from __future__ import annotations

import itertools
import os
import random
import re
from collections.abc import Iterator

import pytest

from django_safe_init.backends.postgresql.lock_keys import leader_key, work_key
from example_project.embedded import EmbeddedServer
from tests.processes.harness import Fleet, entries, exit_codes
from tests.support import Database, wait_until

SAFE, STOCK = ["safe_migrate", "--json"], ["migrate"]
TIME_OUTS = [
    "statement_timeout",
    "lock_timeout",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "transaction_timeout",
]
_numbers = itertools.count(1)


def end_backend(database: Database, pid: int) -> None:
    assert database.value("SELECT pg_terminate_backend(%s, 5000)", pid)


def test_leader_session_is_terminated(fleet: Fleet, database: Database) -> None:
    """A leader whose session is terminated follows its successor and becomes ready."""
    fleet.use(scenario="gated")
    started = fleet.start_together(SAFE, SAFE, STOCK)
    fleet.wait_for_note("inside")
    fleet.wait_for_followers(2)
    (session,) = database.holders(leader_key())
    assert session == database.newest_run()["backend_pid"]
    end_backend(database, session)
    fleet.wait_for_note("inside", 2)
    fleet.allow()
    assert exit_codes(started) == [0, 0, 0], fleet
    assert len(database.applied_once()) == 3
    assert entries(database) == ["gate", "data"]
    assert database.runs()[0]["outcome"] == "abandoned"


def test_migrating_backend_is_terminated(fleet: Fleet, database: Database) -> None:
    """A migration whose backend is terminated is applied once and completely."""
    fleet.use(scenario="gated")
    started = fleet.start_together(SAFE, SAFE, SAFE)
    fleet.wait_for_note("inside")
    fleet.wait_for_followers(2)
    (backend,) = database.holders(work_key())
    end_backend(database, backend)
    fleet.allow()
    assert exit_codes(started) == [0, 0, 0], fleet
    assert entries(database) == ["gate", "data"]


def test_a_storm(fleet: Fleet, database: Database) -> None:
    """Replicas whose sessions end again and again end with a documented exit code."""
    started = fleet.start_together(*[SAFE] * 4, *[STOCK] * 2)
    chance = random.Random(fleet.directory.name)
    left = iter(range(400))

    def end_one() -> bool:
        """End one session, until the storm or the replicas have ended."""
        pids = [each["pid"] for each in database.backends("datname IS NOT NULL")]
        if pids:
            database.rows("SELECT pg_terminate_backend(%s)", chance.choice(pids))
        return next(left, None) is None or all(each.ended for each in started)

    wait_until(end_one)
    assert set(exit_codes(started)) <= {0, 1, 4, 5}, fleet
    last = fleet.run(*SAFE)
    assert last.wait() == 0, fleet
    assert len(database.applied_once()) == 5
    assert entries(database) == ["data"]


@pytest.mark.parametrize("mode", ["immediate", "fast"])
def test_server_is_restarted(
    fleet: Fleet, database: Database, server: EmbeddedServer, mode: str
) -> None:
    """The replicas survive a restart of the database server in the middle of a run."""
    fleet.use(scenario="gated")
    started = fleet.start_together(*[SAFE] * 4)
    fleet.wait_for_note("inside")
    fleet.wait_for_followers(3)
    database.close()
    server.restart(mode)
    fleet.wait_for_note("inside", 2)
    fleet.allow()
    assert exit_codes(started) == [0] * 4, fleet
    assert len(database.applied_once()) == 3
    assert entries(database) == ["gate", "data"]


@pytest.mark.parametrize("close", ["close", "close_old_connections"])
@pytest.mark.parametrize("options", [{}, {"pool": True}], ids=["no pool", "pool"])
def test_migration_closes_its_connection(
    fleet: Fleet,
    database: Database,
    close: str,
    options: dict[str, object],
) -> None:
    """A migration that closes its connection continues on a new one that belongs to the run."""
    fleet.use(scenario="closing", close=close, atomic="0")
    fleet.use(database_settings={"OPTIONS": options})
    started = fleet.start_together(SAFE, SAFE, STOCK)
    ((_, note),) = fleet.wait_for_note("backend")
    assert int(note.split()[1]) in database.holders(work_key())
    fleet.wait_for_followers(2)
    fleet.allow()
    assert exit_codes(started) == [0, 0, 0], fleet
    assert len(database.applied_once()) == 2
    assert entries(database) == ["before", "after"]


@pytest.mark.parametrize("close", ["close", "close_old_connections"])
def test_atomic_migration_closes_its_connection(
    fleet: Fleet, database: Database, close: str
) -> None:
    """Closing the connection inside a transaction fails the migration, as in plain Django."""
    fleet.use(scenario="closing", close=close, atomic="1")
    started = fleet.start_together(SAFE, SAFE, SAFE)
    assert exit_codes(started) == [1, 1, 1], fleet
    assert database.applied_once() == ["shop.0001_initial"]
    assert entries(database) == []


@pytest.mark.parametrize("close", ["close", "close_old_connections"])
def test_killed_on_its_second_connection(
    fleet: Fleet, database: Database, close: str
) -> None:
    """The successor also terminates a connection that the migration has reopened."""
    fleet.use(scenario="closing", close=close, atomic="0")
    started = fleet.start_together(SAFE, SAFE)
    ((pid, _),) = fleet.wait_for_note("backend")
    fleet.wait_for_followers(1)
    fleet.replica(pid).kill()
    fleet.allow()
    assert sorted(exit_codes(started)) == [0, 137], fleet
    assert len(database.applied_once()) == 2


def test_pool(fleet: Fleet, database: Database) -> None:
    """With Django's psycopg pool the lock does not stay in the pool: all become ready."""
    fleet.use(database_settings={"OPTIONS": {"pool": {"min_size": 1, "max_size": 2}}})
    started = fleet.start_together(SAFE, SAFE, STOCK, STOCK)
    assert exit_codes(started) == [0] * 4, fleet
    assert len(database.applied_once()) == 5
    assert entries(database) == ["data"]


@pytest.fixture
def impatient(database: Database) -> Iterator[Database]:
    """`database` for its owner, a role whose timeouts are all 2 s."""
    role = f"impatient_{os.getpid()}_{next(_numbers)}"
    database.rows(f"CREATE ROLE {role} LOGIN")
    for name in TIME_OUTS:
        database.rows(f"ALTER ROLE {role} SET {name} = '2s'")
    database.rows(f"ALTER DATABASE {database.name} OWNER TO {role}")
    impatient = Database(database.name, {**database.parameters, "user": role})
    yield impatient
    impatient.close()


def test_time_outs_of_the_role(
    fleet: Fleet, database: Database, impatient: Database
) -> None:
    """The role's timeouts end no session of the leader or of a follower.

    They hold for the migration's own transaction, unless it changes them.
    """
    fleet.use(scenario="gated", database=impatient, patient="1")
    started = fleet.start_together(SAFE, SAFE, STOCK)
    fleet.wait_for_note("inside")
    fleet.wait_for_followers(2)
    before = {backend["pid"] for backend in database.backends()}
    age = "SELECT clock_timestamp() - started_at > interval '3 s' FROM django_safe_init_run"
    wait_until(lambda: database.value(age), message="the run is 3 s old")
    assert before == {backend["pid"] for backend in database.backends()}
    fleet.allow()
    assert exit_codes(started) == [0, 0, 0], fleet
    assert len(fleet.notes("inside")) == 1
    assert entries(database) == ["gate", "data"]


def test_statement_longer_than_the_roles_time_out(
    fleet: Fleet, database: Database, impatient: Database
) -> None:
    """A migration that exceeds the role's timeouts fails, as with plain Django."""
    replica = fleet.run(*SAFE, scenario="locking", database=impatient)
    assert replica.wait() == 1, replica
    assert re.search("(statement|transaction) timeout", replica.stdout), replica
    assert entries(database) == []


def test_migration_locks_our_tables(fleet: Fleet, database: Database) -> None:
    """A migration may lock the status tables for seconds; the leader and the followers continue."""
    fleet.use(scenario="locking")
    started = fleet.start_together(SAFE, SAFE, STOCK)
    assert exit_codes(started) == [0, 0, 0], fleet
    assert len(fleet.notes("inside")) == 1
    assert entries(database) == ["locking"]
    assert {step["outcome"] for step in database.steps()} == {"done"}


def test_leader_session_is_terminated_while_our_tables_are_locked(
    fleet: Fleet, database: Database
) -> None:
    """A follower takes over although a lost leader's migration locks the status tables."""
    fleet.use(scenario="locking", gated="1", after="0")
    started = fleet.start_together(SAFE, SAFE)
    fleet.wait_for_followers(1)
    fleet.allow("lock")
    fleet.wait_for_note("inside")
    (session,) = database.holders(leader_key())
    end_backend(database, session)
    fleet.wait_for_note("inside", 2)
    fleet.allow()
    assert exit_codes(started) == [0, 0], fleet
    assert entries(database) == ["locking"]


def test_giving_up_while_our_tables_are_locked(
    fleet: Fleet, database: Database
) -> None:
    """A follower that cannot read the locked status tables gives up at its timeout."""
    fleet.use(scenario="locking", gated="1", after="0")
    leader = fleet.start(*SAFE)
    fleet.wait_for_note("before")
    early = fleet.start(*SAFE, "--timeout", "8")
    fleet.wait_for_followers(1)
    fleet.allow("lock")
    fleet.wait_for_note("inside")
    late = fleet.start(*SAFE, "--timeout", "1")
    assert exit_codes([early, late]) == [3, 3], fleet
    fleet.allow()
    assert leader.wait() == 0, leader
