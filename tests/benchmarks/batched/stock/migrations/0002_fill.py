"""Compute a value for each row in Python, and print the seconds."""

import os
import time

from django.db import migrations

from django_safe_init import for_each_batch

WAY = os.environ["BENCHMARK_WAY"]
BATCH = int(os.environ["BENCHMARK_BATCH"])


def fill(apps, schema_editor):
    started = time.perf_counter()
    _WAYS[WAY](apps.get_model("stock", "Item").objects)
    print(f"seconds {time.perf_counter() - started}", flush=True)


def _in_one_transaction(items):
    found = list(items.all())
    for item in found:
        item.price = len(item.name)
    items.bulk_update(found, ["price"], batch_size=BATCH)


def _in_batches(items):
    def work(found):
        for item in found:
            item.price = len(item.name)
        items.bulk_update(found, ["price"])

    for_each_batch(items.all(), work, BATCH)


def _row_by_row(items):
    for item in items.all():
        item.price = len(item.name)
        item.save(update_fields=["price"])


_WAYS = {"one": _in_one_transaction, "batches": _in_batches, "rows": _row_by_row}


class Migration(migrations.Migration):
    atomic = WAY == "one"
    dependencies = [("stock", "0001_initial")]
    operations = [migrations.RunPython(fill, migrations.RunPython.noop)]
