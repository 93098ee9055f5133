from django.contrib import admin
from django.urls import path

from catalog.views import index
from orders.views import best_sellers

urlpatterns = [
    path("", index, name="index"),
    path("best-sellers/", best_sellers, name="best-sellers"),
    path("admin/", admin.site.urls),
]
