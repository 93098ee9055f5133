"""Several workers of one web server: none revokes "ready"."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from tests.processes.harness import Fleet
from tests.serving.harness import READY, Server
from tests.support import Database, wait_until

POOL = {"OPTIONS": {"pool": {"min_size": 1, "max_size": 4}}}


def states(server: Server, times: int = 80) -> set[tuple[int, int]]:
    """Return the workers that answered, each with its HTTP status codes."""
    return {(each.worker, each.status) for each in server.get_often(READY, times)}


@pytest.mark.parametrize(
    ("workers", "options", "settings"),
    [
        pytest.param(2, [], {}, id="two", marks=pytest.mark.smoke),
        pytest.param(4, [], {}, id="four"),
        pytest.param(2, ["--preload"], {}, id="preload"),
        pytest.param(
            2, ["--preload"], {"database_settings": POOL}, id="preload and pool"
        ),
        pytest.param(2, ["--threads=4"], {}, id="threads"),
    ],
)
def test_never_flaps(
    fleet: Fleet,
    database: Database,
    serve: Any,
    workers: int,
    options: Any,
    settings: Any,
) -> None:
    """Each worker becomes ready while others migrate, and none revokes it."""
    fleet.use(scenario="gated")
    server = serve(*options, workers=workers, **settings)
    assert {code for _, code in states(server)} == {503}
    leader = fleet.start("safe_migrate")
    fleet.wait_for_note("inside")
    assert {code for _, code in states(server)} == {503}
    fleet.allow()
    assert leader.wait() == 0, leader
    server.wait_until_ready(workers)
    seen = states(server)
    assert {code for _, code in seen} == {200}
    assert len(seen) <= workers
    pooled = "database_settings" in settings
    for answer in server.get_often("/entries/", 40):
        assert answer.json == {"entries": ["gate", "data"]}
    if not pooled:
        wait_until(lambda: not database.backends())


def test_a_worker_that_is_replaced(fleet: Fleet, serve: Any) -> None:
    """The first request to a replaced worker is served."""
    assert fleet.run("safe_migrate").wait() == 0
    server = serve("--max-requests=3", workers=2)
    server.wait_until_ready(2)
    answers = server.get_often("/entries/", 60, clients=2)
    assert {answer.status for answer in answers} == {200}
    assert len({answer.worker for answer in answers}) > 5


def test_a_worker_that_is_killed(fleet: Fleet, serve: Any) -> None:
    """The successor of a killed worker becomes ready without a request."""
    assert fleet.run("safe_migrate").wait() == 0
    server = serve()
    first = server.wait_for(lambda answer: answer.status == 200)
    os.kill(first.worker, signal.SIGKILL)
    wait_until(lambda: server.get("/entries/").worker != first.worker)
    assert server.wait_for(lambda answer: answer.status == 200).worker != first.worker
