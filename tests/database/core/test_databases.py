"""Checks of aliases and of the caller's transaction."""

from __future__ import annotations

import pytest
from django.db import transaction

from django_safe_init.core.databases import check_outside_transaction
from django_safe_init.exceptions import ConfigurationError


def test_check_outside_transaction(django_database) -> None:
    """`check_outside_transaction` raises inside `atomic()` only."""
    check_outside_transaction("default")
    with (
        transaction.atomic(),
        pytest.raises(
            ConfigurationError,
            match="must be a TransactionTestCase",
        ),
    ):
        check_outside_transaction("default")
