"""Every backend keeps the promises of a recorder."""

from __future__ import annotations

from django_safe_init.testing import RecorderContract
from tests.database.contract.backends import OnFake, OnPostgreSQL, OnSQLite


class TestPostgreSQL(OnPostgreSQL, RecorderContract):
    """The contract, on PostgreSQL."""


class TestSQLite(OnSQLite, RecorderContract):
    """The contract, on a database file."""


class TestFake(OnFake, RecorderContract):
    """The contract, on the fake."""
