"""Small projects for the integrations, with the fixtures of the database tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from django_safe_init.serving.background.readiness import readiness
from tests.database.conftest import (  # noqa: F401  (fixtures)
    lite,
    log_in_as,
    new_role,
    shop,
    small_shop,
)


@pytest.fixture
def fresh_readiness() -> Iterator[None]:
    """Reset this process's readiness before and after the test."""
    readiness.reset()
    yield
    readiness.reset()
