"""A schema whose table is locked waits with the limits of a single database."""

from __future__ import annotations

from contextlib import closing

import pytest

from tests.tenants.harness import TenantProject

NAMES = ["t0", "t1", "t2"]
FIELD = 'migrations.AddField("box", "size", models.IntegerField(default=0))'


def prepare(project: TenantProject) -> None:
    project.run("safe_migrate")
    project.add_tenants(*NAMES)
    project.run("safe_migrate")
    project.add_migration("0006_size", FIELD)


def test_blocked_schema_fails(project: TenantProject) -> None:
    """The error names the session that blocks the schema; the other schemas are done."""
    prepare(project)
    with closing(project.database.connect(application_name="reporting")) as blocker:
        blocker.execute("BEGIN")
        blocker.execute("LOCK TABLE t1.stock_box IN ACCESS SHARE MODE")
        limits = {"DDL_LOCK_TIMEOUT": 0.1, "DDL_ATTEMPTS": 2}
        project.use(limits)
        failed = project.run("safe_migrate", code=1)
        assert "t1 failed: stock.0006_size" in failed.stderr, failed
        assert "reporting" in failed.stderr, failed
        project.assert_complete(["t0", "t2", *project.static], "stock.0006_size")
        assert "stock.0006_size" not in project.records("t1")
    project.run("safe_migrate")
    project.assert_complete(NAMES, "stock.0006_size")


def test_blocked_schema_waits(project: TenantProject) -> None:
    """A schema whose table is locked for a while is migrated afterwards, in the same run."""
    prepare(project)
    project.use({"DDL_LOCK_TIMEOUT": 0.1, "DDL_ATTEMPTS": 30})
    with closing(project.database.connect(application_name="reporting")) as blocker:
        blocker.execute("BEGIN")
        blocker.execute("LOCK TABLE t1.stock_box IN ACCESS SHARE MODE")
        replica = project.start("safe_migrate")
        project.wait_until(lambda: "reporting" in replica.stderr, "the blocker's name")
    assert replica.wait() == 0, replica
    project.assert_complete([*NAMES, *project.static], "stock.0006_size")


@pytest.mark.parametrize("jobs", ["1", "2"])
@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("ACCESS EXCLUSIVE", "did not get a lock within 0.1 s (attempts: 2)"),
        ("SHARE", "canceling statement due to lock timeout"),
    ],
)
def test_locked_table_of_migrations(
    project: TenantProject, jobs: str, mode: str, reason: str
) -> None:
    """The schema is tried again until its limits; the other schemas are done."""
    prepare(project)
    project.use({"DDL_LOCK_TIMEOUT": 0.1, "DDL_ATTEMPTS": 2})
    with closing(project.database.connect(application_name="restoring")) as blocker:
        blocker.execute("BEGIN")
        blocker.execute(f"LOCK TABLE t1.django_migrations IN {mode} MODE")
        failed = project.run("safe_migrate", "--jobs", jobs, code=1)
        assert "t1 failed: " in failed.stderr, failed
        assert reason in failed.stderr, failed
        project.assert_complete(["t0", "t2", *project.static], "stock.0006_size")
        status = project.run("safe_init_status", code=None)
        assert "t1" in status.stdout
    project.run("safe_migrate", "--jobs", jobs)
    project.assert_complete([*NAMES, *project.static], "stock.0006_size")
