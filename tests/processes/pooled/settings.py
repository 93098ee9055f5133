"""The settings of a project with a slow pool. A variable holds the database as JSON."""

import json
import os

from django_safe_init.pools import pools

SECRET_KEY = "pooled"
USE_TZ = True
INSTALLED_APPS = ["django_safe_init", "reports"]
DATABASES = pools(json.loads(os.environ["POOLED_DATABASE"]))
DATABASE_ROUTERS = ["django_safe_init.pools.PoolRouter"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
