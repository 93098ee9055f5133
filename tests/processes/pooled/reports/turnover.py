"""The code under test of the project: a report through the pool, and a forbidden write."""

from django.db.models import Sum

from django_safe_init import using_pool

from .models import Sale


@using_pool("analytics")
def turnover() -> int:
    return Sale.objects.aggregate(sum=Sum("amount"))["sum"]


@using_pool("analytics")
def forbidden() -> None:
    Sale.objects.create(amount=1)
