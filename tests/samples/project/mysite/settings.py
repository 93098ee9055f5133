"""The settings of the documentation's imaginary project. libpq's variables name the server."""

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
SAFE_INIT = {"DATABASES": ["default"]}  # "analytics" is of one page
