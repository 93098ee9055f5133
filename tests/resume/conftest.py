"""Fixtures: one base database per engine and worker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from example_project.embedded import EmbeddedServer
from tests.resume.engines import PostgresEngine, SqliteEngine
from tests.resume.rounds import Site


@pytest.fixture(scope="session")
def postgres_site(
    server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    with Site(PostgresEngine(server), tmp_path_factory.mktemp("resume")) as site:
        yield site


@pytest.fixture(scope="session")
def sqlite_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("resume")
    with Site(SqliteEngine(folder), folder) as site:
        yield site


@pytest.fixture(params=["postgresql", "sqlite"])
def site(request: pytest.FixtureRequest) -> Site:
    """Return the base database of each engine in turn."""
    name = "postgres_site" if request.param == "postgresql" else "sqlite_site"
    return request.getfixturevalue(name)  # type: ignore[no-any-return]
