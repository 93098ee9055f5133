"""A project as the documentation imagines it; the server is named by libpq's variables."""

import os

SECRET_KEY = "samples"
USE_TZ = True
INSTALLED_APPS = [
    "django_safe_init",
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "django.contrib.sessions",
    "shop",
]
POSTGRESQL = "django.db.backends.postgresql"
DATABASES = {
    "default": {"ENGINE": POSTGRESQL, "NAME": os.environ["PGDATABASE"]},
    "analytics": {"ENGINE": POSTGRESQL, "NAME": os.environ["ANALYTICS_DATABASE"]},
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
SAFE_INIT = {}
