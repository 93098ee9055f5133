"""Where a SQLite database and its lock are."""

from __future__ import annotations

import os
from urllib.parse import unquote, urlsplit

from django.db import connections


def database_file(alias: str) -> str:
    """The real path of the alias's database, so that one file has one lock by any name.

    NAME may be a path or a URI (https://www.sqlite.org/uri.html).
    """
    name: str = os.fspath(connections[alias].settings_dict["NAME"])
    if name.startswith("file:"):
        name = unquote(urlsplit(name).path)
    return os.path.realpath(name)


def lock_file(alias: str) -> str:
    """The file whose lock is the leader lock."""
    return f"{database_file(alias)}.safe-init.lock"
