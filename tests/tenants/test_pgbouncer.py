"""Followers behind PgBouncer: the leader and its workers go to the server itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.processes.harness import exit_codes
from tests.processes.pgbouncer import pgbouncer
from tests.support import Database
from tests.tenants.harness import TenantProject

NAMES = [f"t{number}" for number in range(6)]


@pytest.fixture
def pooled(project: TenantProject) -> Iterator[TenantProject]:
    """Yield the project behind a pooler that shares sessions, with `DIRECT` to the server."""
    address = project.database.parameters
    server = {"HOST": address["host"], "PORT": address["port"]}
    with pgbouncer(project.database, "transaction") as pooler:
        project.use(
            {"DIRECT": {"default": server}}, PGPORT=str(pooler.parameters["port"])
        )
        yield project


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_four_replicas(pooled: TenantProject, jobs: str) -> None:
    """Four replicas migrate all schemas once, and leave no lock in the pooler's sessions."""
    pooled.run("safe_migrate")
    pooled.add_tenants(*NAMES)
    replicas = [pooled.start("safe_migrate", "--jobs", jobs) for _ in range(4)]
    assert exit_codes(replicas) == [0, 0, 0, 0], pooled
    pooled.assert_complete([*NAMES, *pooled.static])
    assert held_keys(pooled.database) == 0


def test_tenant_is_created(pooled: TenantProject) -> None:
    """The key of a new tenant's schema is held on the server, not in a pooler's session."""
    pooled.run("safe_migrate")
    pooled.python(
        "from customers.models import Customer\n"
        "Customer(schema_name='created').save(verbosity=0)"
    )
    pooled.assert_complete(["created"])
    assert held_keys(pooled.database) == 0
    assert len(pooled.database.runs()) == 1


def held_keys(database: Database) -> int:
    """Return the number of advisory locks that any session of the database holds."""
    count: int = database.value(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database ="
        " (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    return count
