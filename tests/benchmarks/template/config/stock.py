"""The same project as plain Django."""

from .settings import *  # noqa: F403

INSTALLED_APPS = [app for app in INSTALLED_APPS if app != "django_safe_init"]  # noqa: F405
