"""The gunicorn hooks in real web servers, with the configuration of the documentation."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from django_safe_init.backends.postgresql.lock_keys import leader_key
from django_safe_init.serving.background.readiness import readiness
from tests.processes import namespaces
from tests.processes.conftest import fleet, lite, lite_fleet  # noqa: F401  (fixtures)
from tests.processes.harness import Fleet, entries
from tests.samples.blocks import BLOCKS
from tests.serving.harness import IGNORING_CHILDREN, READY, Server, gunicorn
from tests.support import Database, wait_until

pytest.importorskip("gunicorn")

from django_safe_init.contrib.gunicorn import watch

pytestmark = pytest.mark.process

INITIALIZE = {"SERVE": "initialize"}
#: A pool of one connection, which the master has opened before it forks.
POOL = {"OPTIONS": {"pool": {"min_size": 1, "max_size": 1, "timeout": 3}}}
SETTINGS = {"DJANGO_SETTINGS_MODULE": "settings"}
SLEEPING = "state = 'active' AND query LIKE '%pg_sleep%'"
LOGGED = {
    "LOGGING": {
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {"console": {"class": "logging.StreamHandler"}},
        "loggers": {"django_safe_init": {"handlers": ["console"], "level": "INFO"}},
    }
}


def configuration(hook: str) -> str:
    """Return the first sample of the documentation that uses the hook."""
    page = "docs/how-to/gunicorn.md"
    return next(
        block.text for block in BLOCKS if block.page == page and hook in block.text
    )


@pytest.fixture
def serve(fleet: Fleet, tmp_path: Path) -> Iterator[Callable[..., Server]]:  # noqa: F811
    """Start gunicorn with a hook; when the test ends, gunicorn must exit cleanly."""
    started: list[Server] = []

    def start(hook: str, *options: str, on: Fleet = fleet, **settings: Any) -> Server:
        file = tmp_path / "gunicorn.conf.py"
        file.write_text(configuration(hook) if hook else "")
        arguments = {
            name: settings.pop(name) for name in {"workers", "app"} & {*settings}
        }
        settings["env"] = {**SETTINGS, **settings.get("env", {})}
        started.append(
            gunicorn(
                on, "--config", str(file), *options, settings=settings, **arguments
            )
        )
        return started[-1]

    yield start
    for server in started:
        if not server.replica.ended:
            server.end()


# initialize, as on_starting


@pytest.mark.smoke
def test_before_it_listens(fleet: Fleet, database: Database, serve: Any) -> None:  # noqa: F811
    """The database is initialized once before gunicorn listens; then all workers serve."""
    fleet.use(scenario="gated")
    server = serve("initialize", workers=2, listens=False)
    fleet.wait_for_note("inside")
    assert server.ports() == []
    fleet.allow()
    fleet.wait_until(server.ports, "a server")
    assert {each.status for each in server.get_often("/entries/")} == {200}
    assert entries(database) == ["gate", "data"]
    assert [run["outcome"] for run in database.runs()] == ["ready"]


def test_it_follows(fleet: Fleet, database: Database, serve: Any) -> None:  # noqa: F811
    """While another process leads, the hook waits for that run."""
    fleet.use(scenario="gated")
    leader = fleet.start("safe_migrate")
    fleet.wait_for_note("inside")
    server = serve("initialize", listens=False)
    fleet.wait_for_followers(1)
    assert server.ports() == []
    fleet.allow()
    fleet.wait_until(server.ports, "a server")
    assert leader.wait() == 0
    assert len(database.runs()) == 1


def test_it_fails(fleet: Fleet, database: Database, serve: Any) -> None:  # noqa: F811
    """A failure prints one line with the reason, exits with 1, and restarts no worker."""
    fleet.use(scenario="failing")
    fleet.allow()
    server = serve("initialize", workers=2, listens=False)
    assert server.replica.wait() == 1, server.replica
    assert server.replica.stderr.rstrip().splitlines()[-1] == (
        "Error: shop.0002_failing: ValueError: product 7 has no price"
    )
    assert "Booting worker" not in server.replica.stderr
    assert [run["outcome"] for run in database.runs()] == ["failed"]


def test_it_fails_without_an_exit_code(fleet: Fleet, serve: Any) -> None:  # noqa: F811  (a fixture)
    """A failure is a failure although gunicorn was started with SIGCHLD ignored."""
    fleet.use(scenario="failing")
    fleet.allow()
    server = serve("initialize", listens=False, wrapper=IGNORING_CHILDREN)
    assert server.replica.wait() == 1, server.replica
    assert "product 7 has no price" in server.replica.stderr.rstrip().splitlines()[-1]


def test_without_the_name_of_the_settings(serve: Any) -> None:
    """A missing DJANGO_SETTINGS_MODULE is reported in one line."""
    missing = {"DJANGO_SETTINGS_MODULE": None}
    server = serve("initialize", listens=False, env=missing)
    assert server.replica.wait() == 1, server.replica
    last = server.replica.stderr.rstrip().splitlines()[-1]
    assert last.startswith("Error: Set DJANGO_SETTINGS_MODULE in the server's env")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_end(
    fleet: Fleet,  # noqa: F811
    database: Database,
    serve: Any,
    number: signal.Signals,
) -> None:
    """A signal ends the run and gunicorn: no open run, lock or statement is left."""
    fleet.use(scenario="statement")
    server = serve("initialize", listens=False)
    fleet.wait_until(lambda: database.backends(SLEEPING), "the statement runs")
    server.replica.kill(number)
    assert server.replica.wait() == 128 + number, server.replica
    assert database.newest_run()["outcome"] == "interrupted"
    assert database.holders(leader_key()) == []
    assert database.backends(SLEEPING) == []


def test_pid_one_is_told_to_end(
    fleet: Fleet,  # noqa: F811
    database: Database,
    serve: Any,
) -> None:
    """A signal ends gunicorn as PID 1 too, which ignores signals without a handler."""
    fleet.use(scenario="gated")
    server = serve("initialize", listens=False, wrapper=namespaces.wrapper())
    fleet.wait_for_note("inside")
    os.kill(namespaces.pid_one(server.replica), signal.SIGTERM)
    assert server.replica.wait() == 143, server.replica
    assert database.newest_run()["outcome"] == "interrupted"


# watch, as post_worker_init


def test_initialize_without_a_request(
    fleet: Fleet,  # noqa: F811
    database: Database,
    serve: Any,
) -> None:
    """With SERVE "initialize" the initialization starts and ends without a request."""
    fleet.use(scenario="gated", safe_init=INITIALIZE)
    fleet.allow()
    server = serve("watch", workers=2, project=LOGGED)
    ready = "default is ready for this process"
    wait_until(lambda: server.replica.stderr.count(ready) == 2)
    assert entries(database) == ["gate", "data"]
    assert {each.status for each in server.get_often("/entries/")} == {200}


def test_ready_without_a_request(
    fleet: Fleet,  # noqa: F811
    database: Database,
    serve: Any,
) -> None:
    """A worker becomes ready without a request after another process has initialized."""
    fleet.use(scenario="gated")
    server = serve("watch", project=LOGGED)
    wait_until(lambda: "default is not ready: not init" in server.replica.stderr)
    fleet.allow()
    assert fleet.run("safe_migrate").wait() == 0
    wait_until(lambda: "default is ready for this" in server.replica.stderr)
    assert [run["command"] for run in database.runs()] == ["safe_migrate"]


def test_a_hook_of_ones_own(fleet: Fleet, serve: Any) -> None:  # noqa: F811
    """A project's own hook can call `watch`."""
    server = serve("ready to work", project=LOGGED)
    wait_until(lambda: "default is not ready: not init" in server.replica.stderr)
    wait_until(lambda: "ready to work" in server.replica.stderr)


@pytest.mark.parametrize(
    ("safe_init", "watches"),
    [({}, True), (INITIALIZE, True), ({"SERVE": "off"}, False), ({"MODE": "off"}, False)],
)  # fmt: skip
def test_off(
    settings: Any, monkeypatch: Any, safe_init: dict[str, str], watches: bool
) -> None:
    """With SERVE or MODE "off" the hook does nothing."""
    calls: list[None] = []
    monkeypatch.setattr(readiness, "start", lambda: calls.append(None))
    settings.SAFE_INIT = {"IN_TESTS": True, **safe_init}
    watch(None)
    assert bool(calls) is watches


# close_connections, as pre_fork


def preload(serve: Any, hook: str, **settings: Any) -> Server:
    """The settings of workers that are forked from a master which has used its database."""
    options = ("--preload", "--threads=2")
    return serve(hook, *options, workers=2, app="preloaded:application", **settings)


def test_a_pool_that_is_closed(fleet: Fleet, serve: Any) -> None:  # noqa: F811
    """The workers open new pools: all their requests succeed."""
    assert fleet.run("safe_migrate").wait() == 0
    server = preload(serve, "close_connections", database_settings=POOL)
    assert {each.status for each in server.get_often("/entries/", 80)} == {200}
    assert len({each.worker for each in server.get_often(READY)}) == 2


def test_a_pool_that_is_not(fleet: Fleet, serve: Any) -> None:  # noqa: F811
    """Without the hook each request waits for a dead pool."""
    fleet.tracebacks = True
    assert fleet.run("safe_migrate").wait() == 0
    server = preload(serve, "", database_settings=POOL)
    assert {each.status for each in server.get_often("/entries/", 4)} == {500}
    assert {each.status for each in server.get_often(READY, 8)} == {200}


def test_without_a_pool(lite_fleet: Fleet, serve: Any) -> None:  # noqa: F811
    """The hook closes connections of engines without pools."""
    lite_fleet.use(scenario="portable")
    assert lite_fleet.run("safe_migrate").wait() == 0
    server = preload(serve, "close_connections", on=lite_fleet)
    assert {each.status for each in server.get_often("/entries/")} == {200}


def test_without_preload(fleet: Fleet, serve: Any) -> None:  # noqa: F811
    """The hook does nothing in a master without settings."""
    assert fleet.run("safe_migrate").wait() == 0
    missing = {"DJANGO_SETTINGS_MODULE": None}
    server = serve("close_connections", env=missing)
    assert server.get("/entries/").status == 200
