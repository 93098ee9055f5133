"""Settings of a project with a schema for each tenant, for both packages."""

import json
import os

PACKAGE = os.environ.get("TENANT_PACKAGE", "django_tenants")
SECRET_KEY = "not secret: tests only"
DEBUG = False
ALLOWED_HOSTS = ["*"]
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
ROOT_URLCONF = "mysite.urls"
STATIC_URL = "static/"

_ENGINES = {
    "django_tenants": "django_tenants.postgresql_backend",
    "django_pgschemas": "django_pgschemas.postgresql",
}
DATABASES = {
    "default": {
        "ENGINE": _ENGINES[PACKAGE],
        "NAME": os.environ["PGDATABASE"],
        "HOST": os.environ["PGHOST"],
        "PORT": os.environ["PGPORT"],
        "USER": os.environ.get("PGUSER", "postgres"),
        "ATOMIC_REQUESTS": bool(os.environ.get("ATOMIC_REQUESTS")),
    }
}
#: Without this package, to compare with the package's own command.
_OURS = [] if os.environ.get("PLAIN") else ["django_safe_init"]
#: Without the app of the tenants, whose migrations are then pending.
_STOCK = [] if os.environ.get("WITHOUT_STOCK") else ["stock"]
SHARED_APPS = [
    *_OURS,
    PACKAGE,
    "customers",
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "django.contrib.sessions",
]
TENANT_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "django.contrib.sessions",
    *_STOCK,
]
INSTALLED_APPS = [*SHARED_APPS, *_STOCK]
PUBLIC_SCHEMA_NAME = os.environ.get("PUBLIC_SCHEMA", "public")

if PACKAGE == "django_tenants":
    TENANT_MODEL = "customers.Customer"
    TENANT_DOMAIN_MODEL = "customers.Domain"
    DATABASE_ROUTERS = ["django_tenants.routers.TenantSyncRouter"]
    _TENANT_MIDDLEWARE = "django_tenants.middleware.main.TenantMainMiddleware"
else:
    DATABASE_ROUTERS = ["django_pgschemas.routers.TenantAppsRouter"]
    TENANTS = {
        "public": {"APPS": SHARED_APPS},
        "www": {
            "APPS": ["django.contrib.contenttypes", *_STOCK],
            "DOMAINS": ["www.localhost"],
            "URLCONF": "mysite.urls",
        },
        "default": {
            "TENANT_MODEL": "customers.Customer",
            "DOMAIN_MODEL": "customers.Domain",
            "APPS": TENANT_APPS,
            "URLCONF": "mysite.urls",
        },
    }
    _TENANT_MIDDLEWARE = "django_pgschemas.routing.middleware.DomainRoutingMiddleware"

MIDDLEWARE = [_TENANT_MIDDLEWARE]
if _OURS:
    MIDDLEWARE.insert(0, "django_safe_init.middleware.InitializationMiddleware")
SAFE_INIT = json.loads(os.environ.get("SAFE_INIT_SETTINGS", "{}"))
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(levelname)s %(name)s: %(message)s"}},
    "handlers": {
        "stderr": {"class": "logging.StreamHandler", "formatter": "plain"},
    },
    "root": {"handlers": ["stderr"], "level": os.environ.get("LOG_LEVEL", "WARNING")},
}
MIGRATION_MODULES = {"customers": f"customers.migrations_of_{PACKAGE}"}
