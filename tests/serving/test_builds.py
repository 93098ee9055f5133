"""Web servers of two builds with one database, as in every rolling update."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from tests.processes.harness import Fleet
from tests.serving.harness import READY, gunicorn
from tests.support import Database

#: The old build has one of the three migrations of the new one.
OLD, NEW = "portable", "gated"


def test_an_old_build_while_a_newer_one_migrates(fleet: Fleet, serve: Any) -> None:
    """An old build and its new workers stay ready while a newer build migrates."""
    assert fleet.run("safe_migrate", scenario=OLD).wait() == 0
    old = serve(workers=2, scenario=OLD)
    old.wait_until_ready(2)
    new = serve(scenario=NEW)
    leader = fleet.start("safe_migrate", scenario=NEW)
    fleet.wait_for_note("inside")
    new.wait_for(lambda answer: answer.json["state"] == "migrating")
    before = {each.worker for each in old.get_often(READY)}
    assert {each.status for each in old.get_often("/sync/")} == {200}
    for pid in before:
        os.kill(pid, signal.SIGTERM)
    old.wait_until_ready(2, besides=before)
    assert {each.status for each in old.get_often("/sync/")} == {200}
    assert new.get("/sync/").status == 503
    fleet.allow()
    assert leader.wait() == 0, leader
    new.wait_for(lambda answer: answer.status == 200)
    assert {each.status for each in old.get_often(READY)} == {200}


def test_an_old_build_after_a_newer_one_failed(fleet: Fleet, serve: Any) -> None:
    """A newer build's failure does not affect an old build, even after a restart."""
    fleet.allow()
    assert fleet.run("safe_migrate", scenario=OLD).wait() == 0
    assert fleet.run("safe_migrate", scenario="failing").wait() == 1
    server = serve(scenario=OLD)
    assert server.wait_for(lambda answer: answer.status == 200).json["state"] == "ready"


def test_a_forced_run_that_failed(fleet: Fleet, database: Database, serve: Any) -> None:
    """After a failed forced run, ready workers keep serving; new ones wait for a success."""
    fleet.use(scenario=OLD)
    assert fleet.run("safe_migrate").wait() == 0
    early = serve()
    early.wait_until_ready()
    database.rows("ALTER TABLE auth_group RENAME TO mislaid")
    assert fleet.run("safe_migrate", "--force").wait() == 1
    late = serve()
    late.wait_for(lambda answer: answer.json["state"] == "error")
    assert early.get(READY).status == 200
    database.rows("ALTER TABLE mislaid RENAME TO auth_group")
    assert fleet.run("safe_migrate").wait() == 0
    late.wait_until_ready()


def test_a_database_that_went_another_way(fleet: Fleet, serve: Any) -> None:
    """A build with a missing migration is not ready, whatever else has been applied."""
    assert fleet.run("safe_migrate", scenario="plain").wait() == 0
    server = serve(scenario="gated", env={"SAFE_INIT_STATUS_TOKEN": "s3cret"})
    server.wait_for(lambda answer: answer.json["state"] == "uninitialized")
    told = server.get(READY, {"Authorization": "Bearer s3cret"})
    assert told.status == 503
    [database] = told.json["databases"]
    assert database["pending"] == ["shop.0002_gate", "shop.0003_data"]
    assert "shop.0002_sale" in database["unknown"]


@pytest.mark.parametrize("engine", ["fleet", "lite_fleet"])
def test_a_squash_of_applied_migrations(request: Any, engine: str) -> None:
    """A release that only squashes is ready where another process migrates, before it does."""
    replicas: Fleet = request.getfixturevalue(engine)
    assert replicas.run("safe_migrate", scenario=OLD).wait() == 0
    replicas.use(scenario="squashed", safe_init={"MODE": "external"})
    assert replicas.run("migrate", "--check").wait() == 0, replicas
    assert replicas.run("safe_migrate", "--check").wait() == 0, replicas
    assert replicas.run("safe_migrate", "--timeout", "60").wait() == 0, replicas
    server = gunicorn(replicas)
    server.wait_for(lambda answer: answer.status == 200)
    assert server.get("/sync/").status == 200
    server.end()
    assert "shop.0001_squashed" not in replicas.database.applied_counts()
