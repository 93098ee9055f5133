"""The values that the recorder derives from a run before it writes them."""

from __future__ import annotations

import pytest

from django_safe_init.backends.postgresql.recorder import PostgresRecorder
from django_safe_init.core.build import Build
from django_safe_init.core.states import State


def recorder(**values) -> PostgresRecorder:
    made = PostgresRecorder(None, Build(frozenset(), "x"), None)
    for name, value in values.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"state": State.CHECKING_SCHEMA}, "safe_init checking_schema"),
        (
            {
                "state": State.MIGRATING,
                "done": 2,
                "total": 14,
                "message": "shop.0004_x",
            },
            "safe_init 3/14 shop.0004_x",
        ),
        ({"state": State.VALIDATING, "done": 14, "total": 14}, "safe_init validating"),
    ],
)
def test_application_name(values, name) -> None:
    """The application name shows every role the running step and the number of steps."""
    assert recorder(**values)._application_name() == name


def test_application_name_fits() -> None:
    """The application name fits PostgreSQL's 63 bytes, whatever the migration's name."""
    made = recorder(total=1, message="shop.0001_" + "x" * 100)
    assert len(made._application_name()) == 63
