"""A successor finishes what a killed leader has begun, and each migration runs once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from tests.processes.harness import exit_codes
from tests.support import wait_until
from tests.tenants.harness import TenantProject, is_alive

SCHEMAS = [f"t{number:02}" for number in range(20)]
INSERT = """
def insert(apps, schema_editor):
    hold(schema_editor, "before")
    apps.get_model("stock", "Box").objects.create(label="second")
    hold(schema_editor, "after")

"""
PYTHON = "migrations.RunPython(insert, migrations.RunPython.noop)"
FIELD = 'migrations.AddField("box", "size", models.IntegerField(default=0))'
NEW = ("stock.0006_python", "stock.0007_size")


def prepare(project: TenantProject) -> None:
    """Initialize twenty tenants, and add a data migration and one of SQL only."""
    project.run("safe_migrate")
    project.add_tenants(*SCHEMAS)
    project.run("safe_migrate")
    project.add_migration("0006_python", PYTHON, body=INSERT)
    project.add_migration("0007_size", FIELD, after="0006_python")


def assert_once(project: TenantProject) -> None:
    """Assert that each tenant has the new migrations, and the row of one, exactly once."""
    project.assert_complete([*SCHEMAS, *project.static], *NEW)
    for name in SCHEMAS:
        assert project.labels(name)[1:] == ["second"], name
    assert project.database.newest_run()["outcome"] == "ready"
    assert {row["state"] for row in project.schema_rows().values()} == {"done"}


def kill_and_succeed(
    project: TenantProject, jobs: str, victim: Callable[[], int]
) -> None:
    """Start four replicas, kill the leader's process `victim`, and wait for the others."""
    replicas = [
        project.start("safe_migrate", "--jobs", jobs, HOLD_SCHEMA="t07")
        for _ in range(4)
    ]
    project.wait_for_note("before t07")
    project.wait_for_followers(3)
    leader = project.leader()
    children = project.descendants(leader)
    assert len(children) == (0 if jobs == "1" else 2)
    os.kill(victim(), signal.SIGKILL)
    wait_until(lambda: not any(map(is_alive, children)), message="a worker is left")
    project.allow()
    codes = exit_codes(replicas)
    assert sorted(codes) == [0, 0, 0, 137], project
    assert_once(project)


@pytest.mark.smoke
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_leader_killed_in_python(project: TenantProject, jobs: str) -> None:
    """A leader that is killed in the Python of one of twenty schemas has a successor."""
    prepare(project)
    kill_and_succeed(project, jobs, lambda: project.leader().pid)
