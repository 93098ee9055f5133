"""Describe the fake to code that must not know it."""

from __future__ import annotations

from django.db.backends.base.base import BaseDatabaseWrapper

from django_safe_init.backends.base.features import BackendFeatures

FEATURES = BackendFeatures(
    backend="tests.fake_backend.backend.FakeBackend", has_lock=True
)


def get_features(connection: BaseDatabaseWrapper) -> BackendFeatures:
    """Return the features of the fake."""
    return FEATURES
