"""Fixtures that start real web servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.processes.conftest import (  # noqa: F401  (fixtures)
    fleet,
    lite,
    lite_fleet,
    mariadb_fleet,
    pair,
    servers,
    switched_database,
)
from tests.processes.harness import Fleet
from tests.serving.harness import Server, gunicorn, uvicorn
from tests.support import Database

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.process)


@pytest.fixture
def serve(fleet: Fleet) -> Iterator[Callable[..., Server]]:  # noqa: F811
    """Start gunicorn; when the test ends, each web server must exit cleanly."""
    started: list[Server] = []

    def start(
        *options: str, workers: int = 1, app: str = "wsgi:application", **settings: Any
    ) -> Server:
        started.append(
            gunicorn(fleet, *options, workers=workers, app=app, settings=settings)
        )
        return started[-1]

    yield start
    for server in started:
        if not server.replica.ended:
            server.end()


@pytest.fixture
def serve_async(fleet: Fleet) -> Iterator[Callable[..., Server]]:  # noqa: F811
    """Start uvicorn; when the test ends, each web server must exit cleanly."""
    started: list[Server] = []

    def start(*options: str, **settings: Any) -> Server:
        started.append(uvicorn(fleet, *options, **settings))
        return started[-1]

    yield start
    for server in started:
        server.end()


@pytest.fixture
def role(database: Database) -> Iterator[str]:
    """A role that may only log in."""
    name = f"app_{database.name}"
    database.rows(f"CREATE ROLE {name} LOGIN")
    yield name
    database.rows(f"DROP OWNED BY {name}")
    database.rows(f"DROP ROLE {name}")
