from django.contrib import admin

from .models import Coupon, Order, OrderLine

admin.site.register(Coupon)


class OrderLineInline(admin.TabularInline):
    model = OrderLine
    extra = 0


@admin.register(Order)
class OrderAdmin(admin.ModelAdmin):
    list_display = ["number", "customer", "status", "created_at"]
    list_filter = ["status"]
    inlines = [OrderLineInline]
