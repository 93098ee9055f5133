"""Create the table, and its rows in one statement."""

import os

from django.db import migrations, models

ROWS = int(os.environ["BENCHMARK_ROWS"])


class Migration(migrations.Migration):
    initial = True
    operations = [
        migrations.CreateModel(
            "Item",
            [
                ("id", models.BigAutoField(primary_key=True)),
                ("name", models.CharField(max_length=100)),
                ("price", models.IntegerField(null=True)),
            ],
        ),
        migrations.RunSQL(
            "INSERT INTO stock_item (name)"
            f" SELECT 'item ' || n FROM generate_series(1, {ROWS}) AS n"
        ),
    ]
