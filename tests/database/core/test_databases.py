"""Checks of aliases and of the caller's transaction."""

from __future__ import annotations

import pytest
from django.db import transaction

from django_safe_init.core.databases import check_outside_transaction
from django_safe_init.exceptions import ConfigurationError


def test_no_transaction(django_database) -> None:
    """Inside atomic() an initialization is refused; outside it is not."""
    check_outside_transaction("default")
    with (
        transaction.atomic(),
        pytest.raises(ConfigurationError, match="Call it outside"),
    ):
        check_outside_transaction("default")
