"""The settings of a project that uses the package named in the environment."""

import json
import os

_given = json.loads(os.environ["PACKAGE_PROJECT"])

SECRET_KEY = "only for a look at other packages"
DATABASES = {"default": _given["database"]}
INSTALLED_APPS = [
    "django_safe_init",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.sites",
    "django.contrib.staticfiles",
    *_given["apps"],
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
            ]
        },
    }
]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
LANGUAGES = [("en", "English")]
LANGUAGE_CODE = "en"
SITE_ID = 1
STATIC_URL = "static/"
USE_TZ = True

globals().update(_given["settings"])
