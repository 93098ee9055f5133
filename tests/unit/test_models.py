"""What two versions of this package in one rollout rely on."""

from __future__ import annotations

import pytest
from django.db.models import Model

from django_safe_init.backends.base.schema import MODELS
from django_safe_init.core.records import RUN_TABLE, STEP_TABLE

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


@pytest.mark.parametrize("model", MODELS)
def test_an_older_version_can_insert(model: type[Model]) -> None:
    """A column that an older version does not know is nullable or has a default."""
    for field in model._meta.local_concrete_fields:
        optional = field.null or field.has_db_default()
        assert optional or field.column in WRITTEN_BY_ALL[model._meta.db_table]
