"""Define the features of SQLite."""

from __future__ import annotations

from importlib.util import find_spec

from django.db.backends.base.base import BaseDatabaseWrapper

from django_safe_init.backends.base.features import BackendFeatures

FILE = BackendFeatures(
    backend="django_safe_init.backends.sqlite3.backend.SQLiteBackend", has_lock=True
)
#: No other process can reach the database, so nothing has to be excluded.
MEMORY = BackendFeatures(
    backend="django_safe_init.backends.sqlite3.memory.MemoryBackend", is_private=True
)


def get_features(connection: BaseDatabaseWrapper) -> BackendFeatures:
    """Return the features of a database file, or of a database in memory."""
    if is_in_memory(str(connection.settings_dict["NAME"])):
        return MEMORY
    # Windows has no locks of this kind.
    return FILE if find_spec("fcntl") else BackendFeatures()


def is_in_memory(name: str) -> bool:
    """Return True if NAME describes a database in memory. Django knows fewer spellings."""
    path, _, query = name.removeprefix("file:").partition("?")
    return path == ":memory:" or "mode=memory" in query or "vfs=memdb" in query
