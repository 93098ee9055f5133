"""The columns of the status tables, which two versions of the package share in a rollout."""

from __future__ import annotations

import pytest
from django.db.models import Model

from django_safe_init.backends.base.schema import MODELS
from django_safe_init.core.records import RUN_TABLE, STEP_TABLE
from django_safe_init.models import TenantSchema

#: The columns that every version writes. Only these may be NOT NULL without a default.
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
    """Each column that an older version does not write is nullable or has a default."""
    for field in model._meta.local_concrete_fields:
        optional = field.null or field.has_db_default()
        assert optional or field.column in WRITTEN_BY_ALL[model._meta.db_table]


def test_the_text_of_a_schema() -> None:
    """A row of a tenant's schema is shown by the name of the schema."""
    assert str(TenantSchema(schema="acme", run_id=1)) == "acme"
