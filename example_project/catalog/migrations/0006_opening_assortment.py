from django.db import migrations
from django.utils.text import slugify

ASSORTMENT = {
    "Coffee": [
        ("Espresso beans", "14.50"),
        ("Filter beans", "12.90"),
        ("Decaf beans", "13.90"),
        ("Cold brew", "4.20"),
    ],
    "Tea": [
        ("Earl Grey", "6.50"),
        ("Sencha", "8.90"),
        ("Rooibos", "5.90"),
        ("Peppermint", "4.90"),
    ],
    "Equipment": [
        ("Hand grinder", "79.00"),
        ("Pour-over set", "34.00"),
        ("Teapot", "29.50"),
        ("Kettle", "64.00"),
    ],
}


def open_shop(apps, schema_editor):
    """Give existing products a SKU, and add the opening assortment."""
    Category = apps.get_model("catalog", "Category")
    Product = apps.get_model("catalog", "Product")
    ChangeLog = apps.get_model("catalog", "ChangeLog")
    for product in Product.objects.filter(sku=None):
        product.sku = f"P{product.pk:05}"
        product.save(update_fields=["sku"])
    for name, products in ASSORTMENT.items():
        category, _ = Category.objects.get_or_create(
            slug=slugify(name), defaults={"name": name}
        )
        for number, (product, price) in enumerate(products, start=1):
            sku = f"{name[:3].upper()}-{number:02}"
            values = {"name": product, "price": price, "sku": sku, "category": category}
            Product.objects.get_or_create(slug=slugify(product), defaults=values)
    text = f"{Product.objects.count()} products in the assortment"
    ChangeLog.objects.create(migration="catalog.0006_opening_assortment", text=text)


def close_shop(apps, schema_editor):
    """Remove the opening assortment."""
    slugs = [
        slugify(product) for products in ASSORTMENT.values() for product, _ in products
    ]
    apps.get_model("catalog", "Product").objects.filter(slug__in=slugs).delete()
    apps.get_model("catalog", "Category").objects.filter(
        slug__in=[slugify(name) for name in ASSORTMENT]
    ).delete()
    apps.get_model("catalog", "ChangeLog").objects.filter(
        migration="catalog.0006_opening_assortment"
    ).delete()


class Migration(migrations.Migration):
    dependencies = [("catalog", "0005_changelog")]

    operations = [
        migrations.RunPython(open_shop, close_shop),
    ]
