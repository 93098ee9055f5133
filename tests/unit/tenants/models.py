"""Models of tenants and domains, which belong to no app."""

from __future__ import annotations

from django.apps.registry import Apps
from django.db import models

_APPS = Apps()


class Tenant(models.Model):
    """A tenant of either package."""

    schema_name = models.TextField()
    kind = models.TextField()

    class Meta:
        app_label = "tenants"
        apps = _APPS


class Domain(models.Model):
    """A host name of a tenant."""

    domain = models.TextField()
    folder = models.TextField(blank=True)
    tenant = models.ForeignKey(Tenant, models.CASCADE)

    class Meta:
        app_label = "tenants"
        apps = _APPS


_APPS.ready = _APPS.models_ready = _APPS.apps_ready = True
