"""A backend without a journal needs none of its methods."""

from __future__ import annotations

import pytest
from django.db import connection
from django.db.migrations import RunSQL

from django_safe_init.backends.base.run_session import IndexCondition
from django_safe_init.backends.base.sql_effects import SQLEffect
from tests.fake_backend.run_session import FakeRunSession


def test_without_a_journal() -> None:
    """Each migration is in doubt as a whole, so nothing is known about its statements."""
    session = FakeRunSession.__new__(FakeRunSession)
    assert not session.ensure_journal()
    with pytest.raises(NotImplementedError, match="no journal"):
        session.journal(connection)
    assert not session.needs_no_transaction(ValueError("inside a transaction"))
    assert session.effect_of("VACUUM") == SQLEffect()
    assert session.index_condition(connection, "a") == IndexCondition()
    assert not session.removes_index(RunSQL("DROP INDEX CONCURRENTLY a"))
    session.drop_leftover(connection, "a")
