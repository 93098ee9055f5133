"""The paths of `SAFE_INIT["PATHS"]` as routes: `include("django_safe_init.urls")`."""

from __future__ import annotations

from django.urls import path

from django_safe_init.conf import get_settings
from django_safe_init.serving.http import views

app_name = "safe_init"
urlpatterns = [
    path(route.removeprefix("/"), getattr(views, name), name=name)
    for name, route in get_settings().paths.items()
    if route is not None
]
