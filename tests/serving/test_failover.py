"""Web servers that were ready before a failover to a standby without the newest migrations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.processes.harness import Fleet, entries
from tests.serving.harness import READY, Server
from tests.streaming import StreamingPair
from tests.support import Database, wait_until

#: Longer than any test: the application keeps its connection.
KEPT = {"CONN_MAX_AGE": 600}


@pytest.fixture
def database(switched_database: Database) -> Database:
    """Return a database whose primary the test may switch."""
    return switched_database


def lose_migrations(pair: StreamingPair, server: Server, database: Database) -> None:
    """Let a failover take all migrations back; the application notices by its connections."""
    assert server.get("/entries/").status == 200
    database.close()
    pair.primary.stop("immediate")
    wait_until(lambda: server.get("/entries/").status == 500)
    pair.fail_over()


@pytest.mark.parametrize("settings", [KEPT, {}], ids=["kept", "one per request"])
def test_the_gate_closes(
    fleet: Fleet,
    serve: Callable[..., Any],
    database: Database,
    pair: StreamingPair,
    settings: dict[str, Any],
) -> None:
    """A ready worker closes the gate when migrations are lost, and opens it when they are back."""
    fleet.use(database_settings=settings, recheck="0.5", project={"DEBUG": False})
    pair.lose_the_tail()
    assert fleet.run("safe_migrate").wait() == 0, fleet
    server = serve()
    server.wait_for(lambda answer: answer.status == 200)
    lose_migrations(pair, server, database)

    def is_closed() -> bool:
        server.get("/entries/")
        return server.get(READY).status == 503

    wait_until(is_closed, message=lambda: str(server.replica))
    assert fleet.run("safe_migrate").wait() == 0, fleet
    server.wait_for(lambda answer: answer.status == 200)
    assert server.get("/entries/").json == {"entries": entries(database)}


def test_it_initializes_again(
    fleet: Fleet, serve: Callable[..., Any], database: Database, pair: StreamingPair
) -> None:
    """With SERVE = "initialize" the worker also applies the lost migrations again."""
    fleet.use(recheck="0.5", safe_init={"SERVE": "initialize"})
    pair.lose_the_tail()
    server = serve()
    server.wait_for(lambda answer: answer.status == 200)
    lose_migrations(pair, server, database)

    def is_served() -> bool:
        return server.get("/entries/").status == 200

    wait_until(is_served, message=lambda: str(server.replica))
    assert server.get("/entries/").json == {"entries": entries(database)}
