"""Every backend keeps the promises of a reader."""

from __future__ import annotations

from django_safe_init.testing import ReaderContract
from tests.database.contract.backends import OnEachPostgreSQL, OnFake, OnSQLite


class TestPostgreSQL(OnEachPostgreSQL, ReaderContract):
    """The contract, on PostgreSQL."""


class TestSQLite(OnSQLite, ReaderContract):
    """The contract, on a database file."""


class TestFake(OnFake, ReaderContract):
    """The contract, on the fake."""
