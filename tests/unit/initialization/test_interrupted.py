"""Recognition of migrations that consist of concurrent index operations."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.postgres.operations import (
    AddIndexConcurrently,
    RemoveIndexConcurrently,
)
from django.db import migrations, models

from django_safe_init.backends.postgresql.introspection import concurrent_index
from django_safe_init.initialization.interrupted import (
    concurrent_indexes,
    only_concurrent_indexes,
)

ADD = AddIndexConcurrently("product", models.Index(fields=["name"], name="by_name"))
REMOVE = RemoveIndexConcurrently("product", "by_age")
RUN = migrations.RunPython(migrations.RunPython.noop)


def migration(*operations):
    return type("Migration", (migrations.Migration,), {"operations": operations})(
        "0001_x", "shop"
    )


@pytest.mark.parametrize(
    ("operations", "names", "only_indexes"),
    [
        ([ADD], ["by_name"], True),
        ([REMOVE, ADD], ["by_age", "by_name"], True),
        ([ADD, RUN], ["by_name"], False),
        ([RUN], [], False),
        (
            [migrations.SeparateDatabaseAndState(database_operations=[ADD])],
            ["by_name"],
            True,
        ),
        (
            [migrations.SeparateDatabaseAndState(state_operations=[RUN])],
            [],
            True,
        ),
    ],
)
def test_index_operations(operations, names, only_indexes) -> None:
    """Concurrent index operations are found, also inside `SeparateDatabaseAndState`."""
    session: Any = SimpleNamespace(concurrent_index=concurrent_index)
    assert concurrent_indexes(session, migration(*operations)) == names
    assert only_concurrent_indexes(session, migration(*operations)) is only_indexes
