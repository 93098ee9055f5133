"""Behind PgBouncer: refused if locks are unsafe there, initialized otherwise."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes.harness import Fleet, entries, exit_codes
from tests.processes.pgbouncer import clients, pgbouncer
from tests.support import Database, wait_until

SAFE = ["safe_migrate", "--json"]
MANAGE = Path(__file__).parents[2] / "example_project" / "manage.py"


@pytest.fixture
def transaction_pooled(database: Database) -> Iterator[Database]:
    with pgbouncer(database, "transaction") as pooled:
        yield pooled


@pytest.fixture
def session_pooled(database: Database) -> Iterator[Database]:
    with pgbouncer(database, "session") as pooled:
        yield pooled


def direct(database: Database) -> dict[str, object]:
    """Return `SAFE_INIT` with a direct connection that bypasses the pooler."""
    address = database.parameters
    return {"DIRECT": {"default": {"HOST": address["host"], "PORT": address["port"]}}}


@pytest.mark.parametrize(
    "command", [SAFE, ["migrate"]], ids=["safe_migrate", "migrate"]
)
def test_transaction_mode_is_refused(
    fleet: Fleet, database: Database, transaction_pooled: Database, command: list[str]
) -> None:
    """Behind a pooler in transaction mode a replica exits 2 and names `DIRECT`."""
    refused = fleet.run(*command, database=transaction_pooled)
    assert refused.wait() == 2, refused
    assert "DIRECT" in refused.stderr + refused.stdout
    assert database.applied_counts() == {}


def test_transaction_mode_declared_safe_is_refused(
    fleet: Fleet, database: Database, transaction_pooled: Database
) -> None:
    """An empty `DIRECT` declares one session per client; the checks find that this is false."""
    refused = fleet.run(
        *SAFE, database=transaction_pooled, safe_init={"DIRECT": {"default": {}}}
    )
    assert refused.wait() == 2, refused
    assert refused.json["result"] == "unsafe"
    assert "DIRECT" in refused.json["error"]
    assert database.applied_counts() == {}


def test_true_direct(
    fleet: Fleet, database: Database, transaction_pooled: Database
) -> None:
    """With `DIRECT` the leader bypasses the pooler, and the followers use the pooler."""
    fleet.use(scenario="gated", database=transaction_pooled, safe_init=direct(database))
    leader = fleet.start(*SAFE)
    fleet.wait_for_note("inside")
    assert clients(transaction_pooled) == []
    followers = fleet.start_together(SAFE, SAFE)
    wait_until(lambda: len(clients(transaction_pooled)) == 2, message=repr(fleet))
    fleet.allow()
    assert exit_codes([leader, *followers]) == [0, 0, 0], fleet
    assert [follower.json["role"] for follower in followers] == ["follower", "follower"]
    assert entries(database) == ["gate", "data"]
    status = fleet.run("safe_init_status", "--json")
    assert status.wait() == 0, status


def test_session_mode(
    fleet: Fleet, database: Database, session_pooled: Database
) -> None:
    """A pooler in session mode is also refused, until `DIRECT` declares it safe."""
    fleet.use(database=session_pooled)
    refused = fleet.run(*SAFE)
    assert refused.wait() == 2, refused
    assert "DIRECT" in refused.json["error"]
    fleet.use(safe_init={"DIRECT": {"default": {}}})
    started = fleet.start_together(SAFE, SAFE, ["migrate"])
    assert exit_codes(started) == [0, 0, 0], fleet
    assert len(database.applied_once()) == 5
    assert entries(database) == ["data"]


def url(database: Database) -> str:
    """Return the URL of the database for the example project."""
    host, port = database.parameters["host"], database.parameters["port"]
    return f"postgres://{database.parameters['user']}@{host}:{port}/{database.name}"


def test_example_project(database: Database, transaction_pooled: Database) -> None:
    """With the variables of `example_project/deploy` the shop initializes past the pooler."""
    environment = {
        **{k: v for k, v in os.environ.items() if k != "DJANGO_SETTINGS_MODULE"},
        "DATABASE_URL": url(transaction_pooled),
        "DATABASE_DIRECT_URL": url(database),
        "SHOP_SLOW_SECONDS": "0",
    }
    for arguments in (["safe_migrate"], ["safe_init_status"]):
        command = [sys.executable, str(MANAGE), *arguments]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert len(database.applied_once("catalog")) == 13
