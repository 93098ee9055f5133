"""Sessions of this package on an SQLite file."""

from __future__ import annotations

import pytest

from django_safe_init.core.records import TablesUnreadable


def test_a_failed_transaction(lite, lite_session) -> None:
    """A failed transaction is rolled back, and the session stays usable."""
    with pytest.raises(TablesUnreadable), lite_session.writing():
        lite_session.rows("CREATE TABLE x (y)").extend(
            lite_session.rows("SELECT * FROM z")
        )
    assert not lite.has_table("x")
    assert lite_session.rows("SELECT 1 AS one") == [{"one": 1}]
