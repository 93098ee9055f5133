"""The URLs beside the readiness URL: an empty view and django-health-check's database check."""

from django.http import HttpRequest, HttpResponse
from django.urls import path
from health_check.views import HealthCheckView


def empty(request: HttpRequest) -> HttpResponse:
    return HttpResponse()


urlpatterns = [
    path("empty", empty),
    path("database", HealthCheckView.as_view(checks=["health_check.Database"])),
]
