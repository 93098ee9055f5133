from django.contrib import admin

from .models import Category, ChangeLog, Product, StockItem

admin.site.register([Category, ChangeLog, StockItem])


@admin.register(Product)
class ProductAdmin(admin.ModelAdmin):
    list_display = ["name", "sku", "category", "price", "is_active"]
    list_filter = ["category", "is_active"]
    search_fields = ["name", "sku"]
