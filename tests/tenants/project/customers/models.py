"""The tenants, in the shared schema."""

import os

from django.db import models

if os.environ.get("TENANT_PACKAGE", "django_tenants") == "django_tenants":
    from django_tenants.models import DomainMixin
    from django_tenants.models import TenantMixin as TenantModel
else:
    from django_pgschemas.models import TenantModel
    from django_pgschemas.routing.models import DomainModel as DomainMixin


class Customer(TenantModel):
    name = models.CharField(max_length=100, default="")
    size = models.IntegerField(default=0)


class Domain(DomainMixin):
    pass
