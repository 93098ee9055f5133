from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from .models import Product


def index(request: HttpRequest) -> HttpResponse:
    """List the products on sale."""
    products = (
        Product.objects.filter(is_active=True)
        .select_related("category")
        .order_by("category__name", "name")
    )
    return render(request, "catalog/index.html", {"products": products})
