"""Some URLs, which the system checks of a real project inspect."""

from django.contrib import admin
from django.urls import path

urlpatterns = [path("admin/", admin.site.urls)]
