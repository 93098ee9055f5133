"""The project of the generated migrations, which are in the folder `RESUME_STEPS`."""

import json
import os

SECRET_KEY = "resume"
USE_TZ = True
DATABASES = {"default": json.loads(os.environ["RESUME_DATABASE"])}
INSTALLED_APPS = ["django_safe_init", "shop"]
MIGRATION_MODULES = {"shop": "steps"}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
SAFE_INIT = {"UNFINISHED": "rerun"}
