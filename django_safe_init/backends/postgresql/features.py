"""Define the features of PostgreSQL."""

from __future__ import annotations

from django.db.backends.base.base import BaseDatabaseWrapper

from django_safe_init.backends.base.features import BackendFeatures

FEATURES = BackendFeatures(
    backend="django_safe_init.backends.postgresql.backend.PostgresBackend",
    has_lock=True,
    supports_privileged_steps=True,
)


def get_features(connection: BaseDatabaseWrapper) -> BackendFeatures:
    """Return the features of a database on PostgreSQL."""
    return FEATURES
