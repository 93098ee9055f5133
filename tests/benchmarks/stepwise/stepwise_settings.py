"""The settings of the project of the operations, on the database of the environment."""

import json
import os

SECRET_KEY = "benchmark"
INSTALLED_APPS = ["django_safe_init", "stock"]
DATABASES = {"default": json.loads(os.environ["BENCHMARK_DATABASE"])}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
