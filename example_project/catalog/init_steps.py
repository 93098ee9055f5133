"""What the shop needs once in each database, and is no migration."""

from django_safe_init import init_step, steps, track
from django_safe_init.steps import StepContext

from .models import ChangeLog, Product, StockItem

#: Of each product, when the shop opens.
OPENING_STOCK = 25


@init_step
def opening_stock(context: StepContext) -> None:
    """Put every product that has no stock yet on the shelf."""
    new = Product.objects.using(context.alias).filter(stock=None)
    for product in track(new, message="products"):
        StockItem.objects.using(context.alias).create(
            product=product, quantity=OPENING_STOCK
        )
    ChangeLog.objects.using(context.alias).create(
        migration="catalog.opening_stock", text=f"{OPENING_STOCK} of each product"
    )


# Again whenever the file changes.
steps.run_sql("sql/price_range.sql", name="price_range", after=["opening_stock"])
