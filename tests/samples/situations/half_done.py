"""A non-atomic migration whose process dies during the first execution of its second operation."""

import os
import signal

from django.db import migrations, models


def fill(apps, schema_editor):
    products = apps.get_model("shop", "Product").objects
    _, is_first = products.get_or_create(name="half")
    if is_first:
        os.kill(os.getpid(), signal.SIGKILL)


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("shop", "0002_price")]
    operations = [
        migrations.AddField("Product", "stock", models.IntegerField(default=0)),
        migrations.RunPython(fill, migrations.RunPython.noop),
        migrations.AddIndex(
            "Product", models.Index(fields=["stock"], name="product_stock")
        ),
    ]
