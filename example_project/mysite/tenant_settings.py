"""The settings of many shops, each with a schema, for `manage.py demo --tenants`."""

from mysite import settings
from mysite.settings import *  # noqa: F403

SHOP_APPS = ["catalog", "customers", "orders"]
SHARED_APPS = [
    "django_safe_init",
    "django_tenants",
    "shops",
    *(app for app in settings.INSTALLED_APPS[1:] if app not in SHOP_APPS),
]
TENANT_APPS = ["django.contrib.auth", "django.contrib.contenttypes", *SHOP_APPS]
INSTALLED_APPS = [*SHARED_APPS, *SHOP_APPS]
TENANT_MODEL = "shops.Shop"
TENANT_DOMAIN_MODEL = "shops.Domain"

_DEFAULT = settings.DATABASES["default"]
DATABASES = {"default": {**_DEFAULT, "ENGINE": "django_tenants.postgresql_backend"}}
DATABASE_ROUTERS = ["django_tenants.routers.TenantSyncRouter"]
