"""The same project with one more migration, which lasts as long as we want."""

from .settings import *  # noqa: F403

INSTALLED_APPS = [*INSTALLED_APPS, "held"]  # noqa: F405
