"""Fixtures of the process tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes.harness import Fleet
from tests.support import Database

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.process)


@pytest.fixture
def fleet(database: Database, tmp_path: Path) -> Iterator[Fleet]:
    """Processes against `database`; all of them have ended when the test has.

    No process may leak a connection or show its user a traceback.
    """
    fleet = Fleet(database, tmp_path)
    try:
        yield fleet
    finally:
        fleet.end()
    for replica in fleet.replicas:
        assert "ResourceWarning" not in replica.stderr, replica
        assert fleet.tracebacks or "Traceback" not in replica.stderr, replica
