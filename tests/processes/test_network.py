"""The network loses the leader: the database server notices, and a follower takes over."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from django_safe_init.backends.postgresql.lock_keys import leader_key
from tests.processes.harness import Fleet, entries, exit_codes
from tests.processes.network import Cable, RemoteServer, cable
from tests.support import Database, wait_until

SAFE = ["safe_migrate", "--json"]
SLEEPING = "state = 'active' AND query LIKE '%pg_sleep%'"


@pytest.fixture
def wire() -> Iterator[Cable]:
    with cable() as laid:
        yield laid


@pytest.fixture
def remote(wire: Cable) -> Iterator[Database]:
    """An empty database on a server at the near end of the wire."""
    with RemoteServer(wire) as server:
        server.create_database("remote")
        database = Database("remote", server.params())
        yield database
        database.close()


@pytest.fixture
def far_leader(wire: Cable, remote: Database, fleet: Fleet):
    """Start a leader at the far end of the wire, and two followers at the near end."""

    def start(note: str, **scenario: str):
        fleet.use(database=remote, **scenario)
        leader = fleet.start(*SAFE, wrapper=wire.wrapper)
        fleet.wait_for_note(note)
        followers = [fleet.start(*SAFE) for _ in range(2)]
        fleet.wait_for_followers(2)
        assert remote.leader_pid() == leader.pid
        return leader, followers

    return start


def wait_for_takeover(fleet: Fleet, remote: Database) -> None:
    """Wait for the second run. Without the server's keepalives it would take two hours."""
    fleet.wait_until(lambda: len(remote.runs()) > 1, "a second run")


def test_idle(far_leader, wire: Cable, remote: Database, fleet: Fleet) -> None:
    """A disconnected leader is replaced between two statements; reconnected, it becomes ready."""
    leader, followers = far_leader("inside", scenario="gated")
    wire.cut()
    wait_for_takeover(fleet, remote)
    fleet.allow()
    assert exit_codes(followers) == [0, 0], fleet
    wire.repair()
    assert leader.wait() == 0, leader
    assert not {"shop.0002_gate", "shop.0003_data"} & {*leader.json["applied"]}
    assert entries(remote) == ["gate", "data"]
    assert [run["outcome"] for run in remote.runs()] == ["abandoned", "ready"]


def test_inside_a_statement(
    far_leader, wire: Cable, remote: Database, fleet: Fleet
) -> None:
    """The statement of a disconnected leader ends before its successor starts."""
    leader, followers = far_leader("inside", scenario="statement", atomic="0")
    fleet.wait_until(lambda: remote.backends(SLEEPING), "the statement runs")
    wire.cut()
    wait_for_takeover(fleet, remote)
    assert exit_codes(followers) == [0, 0], fleet
    assert [text for _, text in fleet.notes("successor")] == [
        "successor, still running: 0"
    ]
    wire.repair()
    assert leader.wait() == 0, leader
    assert entries(remote) == ["successor"]


def test_with_an_answer_on_its_way(
    far_leader, wire: Cable, remote: Database, fleet: Fleet
) -> None:
    """A response that the leader never acknowledges does not keep its session alive."""
    leader, followers = far_leader("inside", scenario="gated")
    (session,) = remote.holders(leader_key())
    waiting = f"pid = {session} AND wait_event_type = 'Lock'"
    with remote.connect() as other, other.transaction():
        other.execute("LOCK TABLE django_safe_init_run")
        wait_until(lambda: remote.backends(waiting), message="a heartbeat waits")
        wire.cut()
        wait_until(lambda: not remote.backends(waiting), message="it was answered")
    wait_for_takeover(fleet, remote)
    fleet.allow()
    assert exit_codes(followers) == [0, 0], fleet
    wire.repair()
    assert leader.wait() == 0, leader
    assert entries(remote) == ["gate", "data"]
