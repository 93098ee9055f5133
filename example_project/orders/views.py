from django.db.models import Sum
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from django_safe_init import using_pool

from .models import Order, OrderLine


@using_pool("analytics")
def best_sellers(request: HttpRequest) -> HttpResponse:
    """Show the best sellers. The query reads all orders and gets slower with each of them."""
    sold = OrderLine.objects.exclude(order__status=Order.Status.CANCELLED)
    products = sold.values("product__name").annotate(count=Sum("quantity"))
    best = products.order_by("-count", "product__name")[:20]
    return render(request, "orders/best_sellers.html", {"products": best})
