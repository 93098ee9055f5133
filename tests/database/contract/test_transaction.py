"""Every backend keeps the promises of a transaction."""

from __future__ import annotations

from django_safe_init.testing import TransactionContract
from tests.database.contract.backends import OnEachPostgreSQL, OnFake, OnSQLite


class TestPostgreSQL(OnEachPostgreSQL, TransactionContract):
    """The contract, on PostgreSQL."""


class TestSQLite(OnSQLite, TransactionContract):
    """The contract, on a database file."""


class TestFake(OnFake, TransactionContract):
    """The contract, on the fake."""
