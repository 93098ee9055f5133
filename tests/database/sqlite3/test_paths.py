"""The paths of a database file and its lock file."""

from __future__ import annotations

import os

import pytest
from django.db import connections

from django_safe_init import (
    ConfigurationError,
    get_status,
    initialize,
)
from django_safe_init.backends.sqlite3.paths import database_file, lock_file


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("{0}/a b.sqlite3", "{0}/a b.sqlite3"),
        ("file:{0}/a%20b.sqlite3?mode=rwc", "{0}/a b.sqlite3"),
        ("file://localhost{0}/x?cache=private", "{0}/x"),
        ("{0}/link", "{0}/real"),
    ],
)
def test_database_file(lite, tmp_path, name, found) -> None:
    """A path, a URI and a link lead to the same real file, so that each file has one lock."""
    (tmp_path / "link").symlink_to(tmp_path / "real")
    connections.settings["default"]["NAME"] = name.format(tmp_path)
    assert database_file("default") == found.format(os.path.realpath(tmp_path))
    assert lock_file("default") == database_file("default") + ".safe-init.lock"


def test_a_path_object(lite, tmp_path) -> None:
    """NAME may be a `Path`, as in the settings of `startproject`."""
    connections.settings["default"]["NAME"] = tmp_path / "x"
    assert database_file("default") == str(tmp_path / "x")


@pytest.mark.parametrize("name", ["", None, 7, "a\0b", "file:?mode=ro"])
def test_no_path(lite, small_shop, name) -> None:
    """A NAME that is not a file's path is a `ConfigurationError`."""
    connections.settings["default"]["NAME"] = name
    for call in (get_status, initialize):
        with pytest.raises(ConfigurationError, match="not the path of a file"):
            call()
