"""One run migrates the shared schema, and then the schemas of all tenants."""

from __future__ import annotations

import pytest

from tests.tenants.harness import TenantProject

NAMES = ["t0", "t1", "t2"]


@pytest.mark.smoke
def test_first_run_and_second(project: TenantProject) -> None:
    """A run migrates the shared schema; the next one finds the tenants that were added."""
    first = project.run("safe_migrate")
    project.assert_complete(project.static)
    assert not project.database.has_table("public.stock_box"), first
    project.add_tenants(*NAMES)
    second = project.run("safe_migrate", "--jobs", "2")
    project.assert_complete([*NAMES, *project.static])
    assert [len(project.labels(name)) for name in NAMES] == [1, 1, 1]
    assert project.database.newest_run()["outcome"] == "ready", second
    third = project.run("safe_migrate")
    assert len(project.database.runs()) == 2, third
