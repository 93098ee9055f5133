"""The routes of a project that shows the check."""

from django.urls import path
from health_check.views import HealthCheckView

CHECK = "django_safe_init.contrib.health_check.SafeInit"

urlpatterns = [
    path("health/", HealthCheckView.as_view(checks=[CHECK]), name="health"),
    path(
        "nowhere/",
        HealthCheckView.as_view(checks=[(CHECK, {"alias": "nowhere"})]),
        name="nowhere",
    ),
]
