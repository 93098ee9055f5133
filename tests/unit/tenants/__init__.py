"""The packages with a schema for each tenant, without their apps."""

import django_pgschemas.signals
import django_tenants.signals
from django.db.models.signals import post_delete, pre_delete

# They would read the settings of tenants at each deletion of other tests in this process.
pre_delete.disconnect(django_pgschemas.signals.tenant_delete_callback)
post_delete.disconnect(django_tenants.signals.tenant_delete_callback)
