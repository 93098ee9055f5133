"""The same project with one more migration, which runs until the benchmark ends it."""

from .settings import *  # noqa: F403

INSTALLED_APPS = [*INSTALLED_APPS, "held"]  # noqa: F405
