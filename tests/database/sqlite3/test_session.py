"""Sessions of this package to an SQLite file."""

from __future__ import annotations

import pytest

from django_safe_init.core.records import TablesUnreadable


def test_a_transaction_that_breaks_off(lite, lite_session) -> None:
    """What was written before an error is undone, and the session goes on."""
    with pytest.raises(TablesUnreadable), lite_session.writing():
        lite_session.rows("CREATE TABLE x (y)").extend(
            lite_session.rows("SELECT * FROM z")
        )
    assert not lite.has_table("x")
    assert lite_session.rows("SELECT 1 AS one") == [{"one": 1}]
