"""An app whose migrations each test writes, with `tests.database.conftest`."""

from django.apps import AppConfig


class ShopConfig(AppConfig):
    name = "tests.database.shop"
    label = "shop"
    default_auto_field = "django.db.models.BigAutoField"
