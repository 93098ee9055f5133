"""The page of a real web server while a real leader works."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.support import text
from tests.processes.harness import Fleet
from tests.serving.harness import Server, gunicorn
from tests.support import Database, wait_until


@pytest.fixture
def fleet(database: Database, tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(database, tmp_path)
    made.use(scenario="gated")
    yield made
    made.end()


@pytest.fixture
def serving(fleet: Fleet) -> Server:
    return gunicorn(fleet, workers=2)


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
def test_it_ends_on_the_requested_page(
    open_page: Callable[..., Any],
    fleet: Fleet,
    serving: Server,
    width: int,
    script: bool,
) -> None:
    """A visitor sees the migration advance, and then the requested page."""
    page = open_page(width, java_script_enabled=script)
    page.goto(f"http://127.0.0.1:{serving.port}/entries/?page=2")
    leader = fleet.start("safe_migrate")
    fleet.wait_for_note("inside")
    wait_until(lambda: "steps" in text(page, "#counts"), 20)
    fleet.allow()
    assert leader.wait() == 0, leader
    page.wait_for_selector("text=gate", timeout=30_000)
    assert page.url.endswith("/entries/?page=2")


def test_a_failed_run(open_page: Callable[..., Any], fleet: Fleet) -> None:
    """A failure shows the run's number, and no secret."""
    fleet.use(scenario="failing")
    fleet.allow()
    server = gunicorn(fleet)
    page = open_page(360)
    page.goto(f"http://127.0.0.1:{server.port}/entries/")
    assert fleet.run("safe_migrate").wait() == 1
    page.wait_for_selector("text=/\\b1\\b/", timeout=30_000)
    shown = page.content()
    for secret in ("no price", "0002_failing", "shop.", "ValueError"):
        assert secret not in shown
