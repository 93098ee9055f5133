"""The output of the commands, and the commands that change nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from django_safe_init.backends.postgresql.lock_keys import leader_key
from tests.processes.harness import Fleet, exit_codes
from tests.support import Database

SAFE = ["safe_migrate", "--json"]
KEYS = {"result", "role", "database", "run", "applied", "error"}
KEYS |= {"waited_seconds", "duration_seconds", "schemas_migrated"}
PRINTED = [
    "printed by a migration",
    "written past sys.stdout",
    "printed by a pre_migrate receiver",
    "printed by a post_migrate receiver",
]


@pytest.mark.smoke
def test_json_alone_on_standard_output(fleet: Fleet, database: Database) -> None:
    """With `--json`, the output of migrations and receivers goes to standard error."""
    fleet.use(scenario="printing", print="1")
    replica = fleet.run(*SAFE)
    assert replica.wait() == 0, replica
    assert set(replica.json) == KEYS
    assert replica.json["result"] == "ready"
    assert all(text in replica.stderr for text in PRINTED), replica


def test_without_json(fleet: Fleet, database: Database) -> None:
    """Without `--json`, Django's output is on standard output."""
    fleet.use(scenario="printing", print="1")
    replica = fleet.run("safe_migrate")
    assert replica.wait() == 0, replica
    assert "Applying shop.0001_initial... OK" in replica.stdout
    assert all(text in replica.stdout for text in PRINTED), replica


@pytest.mark.parametrize(
    "arguments",
    [
        ["--database", "nowhere"],
        ["--timeout", "-1"],
        ["--rerun", "shop.9999_missing"],
        ["--unknown-option"],
    ],
    ids=" ".join,
)
def test_usage_errors(fleet: Fleet, database: Database, arguments: list[str]) -> None:
    """A usage error prints one JSON object with a sentence, and exits 2."""
    wrong = fleet.run(*SAFE, *arguments)
    assert wrong.wait() == 2, wrong
    assert wrong.json["result"] == "usage"
    assert wrong.json["error"]
    assert database.applied_counts() == {}


def test_wrong_setting(fleet: Fleet, database: Database) -> None:
    """A wrong type in `SAFE_INIT` exits 2 and names the key."""
    wrong = fleet.run(*SAFE, safe_init={"WAIT_TIMEOUT": "ten"})
    assert wrong.wait() == 2, wrong
    assert "WAIT_TIMEOUT" in wrong.json["error"]


@pytest.mark.parametrize("command", ["safe_migrate", "migrate"])
def test_plan_and_check_take_no_lock(
    fleet: Fleet, database: Database, command: str
) -> None:
    """`--plan` and `--check` do not wait for a leader, and write nothing."""
    with database.connect() as holder:
        holder.execute("SELECT pg_advisory_lock(%s)", [leader_key()])
        plan = fleet.run(command, "--plan")
        check = fleet.run(command, "--check")
    assert plan.wait() == 0, plan
    assert "shop.0005_data" in plan.stdout
    assert check.wait() == 1, check
    assert (
        database.value("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
        == 0
    )


def test_several_databases(
    fleet: Fleet, database: Database, make_database: Callable[..., Database]
) -> None:
    """Two aliases are both initialized, and make one JSON object with one entry each."""
    other = make_database()
    fleet.use(databases={"other": other})
    replica = fleet.run(*SAFE, "--database", "default", "--database", "other")
    assert replica.wait() == 0, replica
    assert replica.json["result"] == "ready"
    assert [each["database"] for each in replica.json["databases"]] == [
        "default",
        "other",
    ]
    assert len(database.applied_once()) == len(other.applied_once()) == 5


def test_two_stages(fleet: Fleet, database: Database) -> None:
    """After django-syzygy's `--pre-deploy` the build is not ready until the others have run."""
    pytest.importorskip("syzygy")
    fleet.use(scenario="staged", apps=("django_safe_init", "syzygy"))
    before = ["migrate", "--pre-deploy"]
    assert exit_codes(fleet.start_together(before, before, before)) == [0, 0, 0], fleet
    assert database.applied_once() == ["shop.0001_initial"]
    assert database.newest_run()["outcome"] == "partial"
    status = fleet.run("safe_init_status", "--json")
    assert (status.wait(), status.json["pending"]) == (3, ["shop.0002_forget"])
    assert exit_codes(fleet.start_together(["migrate"], SAFE, ["migrate"])) == [0, 0, 0]
    assert database.applied_once() == [
        "shop.0001_initial",
        "shop.0002_forget",
    ]
    assert fleet.run("safe_init_status").wait() == 0


@pytest.mark.parametrize(
    "apps", [("django_safe_init", "syzygy"), ("syzygy", "django_safe_init")]
)
def test_with_another_migrate(
    fleet: Fleet, database: Database, apps: tuple[str, ...]
) -> None:
    """`safe_migrate` runs the project's `migrate`, which may combine django-syzygy with ours."""
    pytest.importorskip("syzygy")
    fleet.use(apps=apps)
    first = ["migrate"] if apps[0] == "django_safe_init" else SAFE
    started = fleet.start_together(SAFE, first, SAFE)
    assert exit_codes(started) == [0, 0, 0], fleet
    assert len(database.applied_once()) == 5
