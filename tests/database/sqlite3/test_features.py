"""The features of SQLite files and of databases in memory."""

from __future__ import annotations

import pytest
from django.db import connections

from django_safe_init.backends import get_features
from django_safe_init.backends.sqlite3.features import MEMORY


def test_windows(lite, monkeypatch) -> None:
    """SQLite is not supported on an operating system without `fcntl`."""
    monkeypatch.setattr(
        "django_safe_init.backends.sqlite3.features.find_spec", lambda name: None
    )
    assert not get_features("default").is_supported


@pytest.mark.parametrize(
    "name",
    [
        ":memory:",
        "file::memory:?cache=shared",
        "file:x?mode=memory&cache=shared",
        "file:/x?vfs=memdb",
    ],
)
def test_names_of_memory(lite, name) -> None:
    """Every spelling of a database in memory is recognized."""
    connections.settings["default"]["NAME"] = name
    assert get_features("default") is MEMORY
