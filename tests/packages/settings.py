"""The settings of a project that uses the package named in the environment."""

import ast
import json
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

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


def _constants(module: str) -> Iterator[tuple[str, Any]]:
    """Yield the settings in a module that are literals; it is not imported."""
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    for node in ast.parse(Path(spec.origin).read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            try:
                value = ast.literal_eval(node.value)
            except ValueError:
                continue
            if name.isupper() and name not in globals():
                yield name, value


if _given["constants"]:
    globals().update(dict(_constants(_given["constants"])))
globals().update(_given["settings"])
