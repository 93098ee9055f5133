"""The routes of a project, for the checks and the middleware."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.urls import include, path, re_path


def view(request: HttpRequest) -> HttpResponse:
    """Return a response of the project."""
    return HttpResponse("the project")


urlpatterns = [
    path("", include("django_safe_init.urls")),
    path("up", view),
    path("health/<slug:name>", view),
    re_path(r"^(?P<rest>.*)$", view),
]
