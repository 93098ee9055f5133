"""Releases that change only what a receiver of `post_migrate` does."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from tests.processes.harness import Fleet, Replica, exit_codes
from tests.support import Database

SAFE = ["safe_migrate", "--json"]
WITHOUT = {"SAFE_INIT_RELEASE": ""}


def release(name: str, **more: Any) -> dict[str, Any]:
    """Return the keywords of a replica whose release installs the view of its name."""
    return {"env": {"SAFE_INIT_RELEASE": name}, "view": name, **more}


def view(fleet: Fleet) -> str:
    """Return the release that has installed the view."""
    version: str = fleet.database.value("SELECT version FROM shop_view")
    return version


def roles(replicas: list[Replica]) -> list[str]:
    return sorted(replica.json["role"] for replica in replicas)


@pytest.fixture(params=["postgresql", "sqlite"])
def either(request: pytest.FixtureRequest) -> Fleet:
    """Return a fleet on PostgreSQL, and one on SQLite."""
    if request.param == "postgresql":
        return request.getfixturevalue("fleet")
    fleet: Fleet = request.getfixturevalue("lite_fleet")
    fleet.use(scenario="portable")
    return fleet


@pytest.mark.smoke
def test_each_release_runs_the_receivers_once(either: Fleet) -> None:
    """One of four replicas of a new release installs its view, and no later start does again."""
    assert either.run(*SAFE, **release("one")).json["role"] == "leader"
    started = either.start_together(*[SAFE] * 4, **release("two"))
    assert exit_codes(started) == [0] * 4, either
    assert view(either) == "two"
    assert len(either.notes("post_migrate")) == 2
    assert [run["release"] for run in either.database.runs()] == ["one", "two"]
    assert either.run(*SAFE, **release("two")).json["role"] == "none"


def test_a_release_that_is_rolled_back(either: Fleet) -> None:
    """A start of an earlier release installs its own view again."""
    for name in ("one", "two", "one"):
        assert either.run(*SAFE, **release(name)).json["role"] == "leader", either
        assert view(either) == name


def test_a_rollback_of_a_build(fleet: Fleet, database: Database) -> None:
    """An older build whose run is not the newest one installs its own view again."""
    older, newer = release("one"), release("two", scenario="newer")
    fleet.run(*SAFE, **older)
    fleet.run(*SAFE, **newer)
    again = fleet.run(*SAFE, **older)
    assert (again.json["role"], again.json["applied"]) == ("leader", [])
    assert view(fleet) == "one"
    assert fleet.run(*SAFE, **older).json["role"] == "none"


def test_a_rollback_of_a_part(fleet: Fleet, database: Database) -> None:
    """A release whose `migrate APP` ran the receivers is rolled back like any other."""
    fleet.run(*SAFE, **release("one"))
    fleet.run("migrate", "shop", **release("two", scenario="newer"))
    assert (view(fleet), database.newest_run()["outcome"]) == ("two", "partial")
    assert fleet.run(*SAFE, **release("one")).json["role"] == "leader"
    assert view(fleet) == "one"


def test_a_rollback_of_an_interrupted_run(fleet: Fleet, database: Database) -> None:
    """A release that was stopped in its receivers is rolled back like any other."""
    fleet.run(*SAFE, **release("one"))
    stopped = fleet.start(*SAFE, **release("two", scenario="newer", hold_receiver="1"))
    fleet.wait_until(lambda: view(fleet) == "two", "the other view")
    stopped.kill(signal.SIGTERM)
    assert stopped.wait() == 143, stopped
    assert fleet.run(*SAFE, **release("one")).json["role"] == "leader"
    assert view(fleet) == "one"


def test_two_builds_of_one_release(fleet: Fleet, database: Database) -> None:
    """Each build of a release runs its receivers once, whichever of them started last."""
    builds = [release("one"), release("one", scenario="newer")]
    assert [fleet.run(*SAFE, **each).json["role"] for each in builds] == ["leader"] * 2
    assert [fleet.run(*SAFE, **each).json["role"] for each in builds] == ["none"] * 2


@pytest.mark.parametrize(
    "variable",
    [
        "HEROKU_RELEASE_VERSION",
        "RENDER_GIT_COMMIT",
        "FLY_IMAGE_REF",
        "K_REVISION",
        "RAILWAY_GIT_COMMIT_SHA",
    ],
)
def test_a_platform_names_the_release(fleet: Fleet, variable: str) -> None:
    """Without SAFE_INIT_RELEASE the variable of a platform identifies the release."""
    starts = [
        fleet.run(*SAFE, env={**WITHOUT, variable: value}) for value in ("1", "1", "2")
    ]
    assert [each.json["role"] for each in starts] == ["leader", "none", "leader"]


def test_the_setting_is_the_release(fleet: Fleet) -> None:
    """The setting RELEASE wins over the environment."""
    first = fleet.run(*SAFE, safe_init={"RELEASE": "one"}, **release("two"))
    again = fleet.run(*SAFE, safe_init={"RELEASE": "one"}, **release("three"))
    assert roles([first, again]) == ["leader", "none"]


def test_each_start_without_a_release(either: Fleet) -> None:
    """Without a release each start installs its view, as plain `migrate` does."""
    for name in ("one", "two"):
        started = either.run(*SAFE, env=WITHOUT, view=name)
        assert started.json["role"] == "leader", either
        assert view(either) == name


def test_followers_share_without_a_release(fleet: Fleet, database: Database) -> None:
    """Without a release, replicas that wait for a leader do not run the receivers again."""
    fleet.run(*SAFE, env=WITHOUT)
    started = fleet.start_together(*[SAFE] * 4, env=WITHOUT, hold_receiver="1")
    fleet.wait_for_followers(3)
    fleet.allow("receiver")
    assert exit_codes(started) == [0] * 4, fleet
    assert roles(started) == ["follower"] * 3 + ["leader"]
    assert len(database.runs()) == 2


def test_a_follower_of_another_release(fleet: Fleet, database: Database) -> None:
    """A replica that waited for the leader of another release runs its own receivers."""
    fleet.run(*SAFE, **release("one"))
    leader = fleet.start(*SAFE, **release("two", hold_receiver="1"))
    fleet.wait_for_note("post_migrate", 2)
    other = fleet.start(*SAFE, **release("three"))
    fleet.wait_for_followers(1)
    fleet.allow("receiver")
    assert exit_codes([leader, other]) == [0, 0], fleet
    assert other.json["role"] == "leader"
    assert view(fleet) == "three"


def test_readiness_ignores_the_release(fleet: Fleet, database: Database) -> None:
    """A new release is ready before its receivers have run, and external mode does not wait."""
    fleet.run(*SAFE, **release("one"))
    new = release("two")
    for arguments in ([*SAFE, "--check"], [*SAFE, "--mode", "external"]):
        assert fleet.run(*arguments, **new).wait() == 0, fleet
    assert fleet.run("safe_init_status", "--json", **new).json["ready"]
    assert view(fleet) == "one"
    assert len(database.runs()) == 1


def test_migrate_keeps_the_release(fleet: Fleet) -> None:
    """After `migrate` of a release, `safe_migrate` of that release has nothing to do."""
    assert fleet.run("migrate", **release("one")).wait() == 0, fleet
    assert fleet.run(*SAFE, **release("one")).json["role"] == "none"


def test_tables_of_an_older_version(fleet: Fleet, database: Database) -> None:
    """A table without the column of the release is upgraded by the next leader."""
    fleet.run(*SAFE, **release("one"))
    database.rows("ALTER TABLE django_safe_init_run DROP COLUMN release")
    starts = [fleet.run(*SAFE, **release("one")) for _ in range(2)]
    assert [each.json["role"] for each in starts] == ["leader", "none"], fleet
