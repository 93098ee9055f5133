"""The features of SQLite, for files and in memory."""

from __future__ import annotations

import pytest
from django.db import connections

from django_safe_init.backends import get_features
from django_safe_init.backends.sqlite3.features import MEMORY


def test_windows(lite, monkeypatch) -> None:
    """Where the operating system has no such lock, the engine has none."""
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
    """All ways to say that a database is in memory are understood."""
    connections.settings["default"]["NAME"] = name
    assert get_features("default") is MEMORY
