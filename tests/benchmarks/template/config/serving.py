"""The same project as a web server, with this package's middleware only."""

from .settings import *  # noqa: F403

ALLOWED_HOSTS = ["127.0.0.1"]
INSTALLED_APPS = [*INSTALLED_APPS, "health_check"]  # noqa: F405
MIDDLEWARE = ["django_safe_init.middleware.InitializationMiddleware"]
ROOT_URLCONF = "config.serving_urls"
