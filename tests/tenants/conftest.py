"""Fixtures of the tests with a schema for each tenant."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes.conftest import LEAK
from tests.support import Database
from tests.tenants.harness import PACKAGES, TenantProject

#: The log's record of a failed run, or of a failed schema of a run.
LOGGED = re.compile(
    r"\w+: (?:run \d+(?: failed)?: .*|TENANT_ORDER failed)\n(?: {4}.*\n)*(?:\| .*\n)+"
)
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.process)


@pytest.fixture(params=PACKAGES)
def package(request: pytest.FixtureRequest) -> str:
    """The package that keeps the schemas: each test runs with both."""
    pytest.importorskip(request.param)
    return str(request.param)


@pytest.fixture
def jobs(package: str) -> str:
    """The number of processes: several with one package, and none beside the leader with the other.

    The tests of kills run each package with both numbers.
    """
    return {"django_tenants": "2", "django_pgschemas": "1"}[package]


@pytest.fixture
def project(
    database: Database, tmp_path: Path, package: str
) -> Iterator[TenantProject]:
    """Yield a project on an empty database; no process may leak a connection or a traceback."""
    made = TenantProject(database, tmp_path, package)
    try:
        yield made
    finally:
        made.end()
    for replica in made.replicas:
        assert not LEAK.search(replica.stderr), replica
        unlogged = LOGGED.sub("", replica.stderr)
        assert made.tracebacks or "Traceback" not in unlogged, replica
