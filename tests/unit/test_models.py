"""What two versions of this package in one rollout rely on."""

from __future__ import annotations

import pytest

from django_safe_init.core.columns import COLUMNS, RUN_TABLE, STEP_TABLE

#: What every version writes, so that it may be NOT NULL without a default: never more than this.
WRITTEN_BY_ALL = {
    RUN_TABLE: {
        "id",
        "build",
        "state",
        "leader",
        "backend_pid",
        "command",
        "version",
        "started_at",
        "heartbeat_at",
    },
    STEP_TABLE: {"id", "run_id", "position", "kind", "name", "started_at"},
}


@pytest.mark.parametrize(
    ("table", "name"), [(table, name) for table in COLUMNS for name in COLUMNS[table]]
)
def test_an_older_version_can_insert(table, name) -> None:
    """A column that an older version does not know is nullable or has a default."""
    kind = COLUMNS[table][name]
    optional = "NOT NULL" not in kind or "DEFAULT" in kind
    assert optional or name in WRITTEN_BY_ALL[table]
