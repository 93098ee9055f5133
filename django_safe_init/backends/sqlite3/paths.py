"""Find the files of a SQLite database and of its lock."""

from __future__ import annotations

import os
from functools import cache
from urllib.parse import unquote, urlsplit

from django.db import connections

from django_safe_init.exceptions import ConfigurationError


def database_file(alias: str) -> str:
    """Return the real path of the alias's database, so that one file has one lock.

    NAME may be a path or a URI (https://www.sqlite.org/uri.html). The first call resolves a
    relative path, so a migration may change the working directory. Raises `ConfigurationError`
    if NAME is not a path.
    """
    name = connections[alias].settings_dict["NAME"]
    try:
        return _real_path(os.fspath(name))
    except (TypeError, ValueError) as exc:
        raise ConfigurationError(
            f"DATABASES[{alias!r}] has the NAME {name!r}, which is not the path of a file."
        ) from exc


@cache
def _real_path(name: str) -> str:
    path = unquote(urlsplit(name).path) if is_uri(name) else name
    if not path:
        raise ValueError("empty")
    return os.path.realpath(path)


def is_uri(name: str) -> bool:
    """Return True if SQLite reads the name as a URI."""
    return name.startswith("file:")


def lock_file(alias: str) -> str:
    """Return the path of the file whose lock is the leader lock."""
    return f"{database_file(alias)}.safe-init.lock"
