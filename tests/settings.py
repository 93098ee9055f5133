"""Settings of the tests that run inside pytest's process, and of mypy's Django plugin.

The fixture `django_database` points `default` at a database of its own.
"""

import os

SECRET_KEY = "tests"
USE_TZ = True
INSTALLED_APPS = [
    "django_safe_init",
    "django.contrib.contenttypes",
    "django.contrib.auth",
]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": os.environ.get("TEST_DATABASE_NAME", "no database"),
        "HOST": os.environ.get("TEST_DATABASE_HOST", "127.0.0.1"),
        "PORT": os.environ.get("TEST_DATABASE_PORT", "1"),
        "USER": os.environ.get("TEST_DATABASE_USER", "postgres"),
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
SAFE_INIT: dict[str, object] = {}
#: Of the apps in `tests.database.apps`.
LIBRARY_READER_MODEL = "auth.User"
