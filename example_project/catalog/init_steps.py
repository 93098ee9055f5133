"""Steps that prepare each of the shop's databases once, beside the migrations."""

from django.apps import apps
from django.conf import settings

from django_safe_init import init_step, privileged, steps, track
from django_safe_init.steps import StepContext

from .models import ChangeLog, Product, StockItem

#: The quantity of each product when the shop opens.
OPENING_STOCK = 25


def opening_stock(context: StepContext) -> None:
    """Stock every product that has no stock item yet."""
    new = Product.objects.using(context.alias).filter(stock=None)
    for product in track(new, message="products"):
        StockItem.objects.using(context.alias).create(
            product=product, quantity=OPENING_STOCK
        )
    ChangeLog.objects.using(context.alias).create(
        migration="catalog.opening_stock", text=f"{OPENING_STOCK} of each product"
    )


# A step runs once for each database. With a schema for each shop it would find no products.
if not apps.is_installed("django_tenants"):
    init_step(opening_stock)
    # Runs again whenever the file changes.
    steps.run_sql("sql/price_range.sql", name="price_range", after=["opening_stock"])

# The owner migrates, the application serves. Only an administrator can create these roles.
if settings.SHOP_THREE_ROLES:
    privileged.ensure_role("shop_owner", password_env="OWNER_PASSWORD")
    privileged.ensure_database(owner="shop_owner")
    privileged.ensure_role("shop_application", password_env="APPLICATION_PASSWORD")
    privileged.grant_application("shop_application", owner="shop_owner")
