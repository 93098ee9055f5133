"""A project with a slow pool, as a user has it; its database is given as JSON."""

import json
import os

from django_safe_init.pools import pools

SECRET_KEY = "pooled"
USE_TZ = True
INSTALLED_APPS = ["django_safe_init", "reports"]
DATABASES = pools(json.loads(os.environ["POOLED_DATABASE"]))
DATABASE_ROUTERS = ["django_safe_init.pools.PoolRouter"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
