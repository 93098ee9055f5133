"""The settings of a small shop. (1) to (3) mark those for django-safe-init, as in the README."""

import os
from pathlib import Path

from django_safe_init.pools import SlowPool, pools
from mysite.database_url import database_settings

BASE_DIR = Path(__file__).resolve().parent.parent

INSTALLED_APPS = [
    "django_safe_init",  # (1) first, so that its `migrate` replaces the original
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.postgres",
    "catalog",
    "customers",
    "orders",
    "demo",
]

# (2) as you have it; here manage.py sets DATABASE_URL when it is missing
DATABASE_URL = (
    os.environ.get("DATABASE_URL") or "postgres://postgres@localhost:5432/shop"
)
DATABASES = {"default": database_settings(DATABASE_URL)}

SAFE_INIT = {}  # (3) every key has a default

MIDDLEWARE = [
    # First: answers health and status requests, and holds other requests until the build is ready.
    "django_safe_init.middleware.InitializationMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

# For the developer's own machine; what deploy/ starts sets all three.
SECRET_KEY = os.environ.get("SECRET_KEY") or "django-insecure-example"
DEBUG = os.environ.get("DEBUG", "1") == "1"
ALLOWED_HOSTS = os.environ.get("ALLOWED_HOSTS", "localhost,127.0.0.1").split(",")

# Behind a pooler: the direct connection to PostgreSQL, for initializing.
DIRECT = {}
if DIRECT_URL := os.environ.get("DATABASE_DIRECT_URL"):
    DIRECT = database_settings(DIRECT_URL)
    SAFE_INIT["DIRECT"] = {"default": DIRECT}
    DATABASES["default"]["DISABLE_SERVER_SIDE_CURSORS"] = True
# Reports use separate connections: see orders/views.py.
DATABASES = pools(DATABASES["default"], analytics=SlowPool(settings=DIRECT))
DATABASE_ROUTERS = ["django_safe_init.pools.PoolRouter"]
# Three roles: `safe_migrate --phase privileged` creates the other two, with an administrator's
# credentials that no other process has. See catalog/init_steps.py.
SHOP_THREE_ROLES = os.environ.get("SHOP_THREE_ROLES") == "1"
if ADMIN_DATABASE_URL := os.environ.get("ADMIN_DATABASE_URL"):
    DATABASES["admin"] = database_settings(ADMIN_DATABASE_URL)
    SAFE_INIT["PRIVILEGED_DATABASE"] = "admin"
# "initialize": the web server initializes the database itself, in the background.
if SERVE := os.environ.get("SHOP_SERVE"):
    SAFE_INIT["SERVE"] = SERVE

ROOT_URLCONF = "mysite.urls"
WSGI_APPLICATION = "mysite.wsgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
STATIC_URL = "static/"
LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_I18N = False
USE_TZ = True

# The duration of the slow migration (catalog 0013), in seconds.
SHOP_SLOW_SECONDS = float(os.environ.get("SHOP_SLOW_SECONDS", "3"))

# The same shop without django-safe-init, for `manage.py demo --compare`.
if os.environ.get("SHOP_STOCK") == "1":
    INSTALLED_APPS.remove("django_safe_init")
    del DATABASES["default_analytics"]
    DATABASE_ROUTERS.clear()
    del MIDDLEWARE[0]
