"""Operations of three kinds, each of which plain Django commits statement by statement."""

import os

from django.db import migrations, models

COUNT = int(os.environ["BENCHMARK_OPERATIONS"])
KIND = os.environ["BENCHMARK_KIND"]


def _model(number):
    fields = [("id", models.BigAutoField(primary_key=True))]
    if number:
        fields += [
            ("before", models.ForeignKey(f"stock.Part{number - 1}", models.CASCADE)),
            ("code", models.CharField(max_length=20, db_index=True)),
        ]
    return migrations.CreateModel(f"Part{number}", fields)


_KINDS = {
    "CreateModel": lambda number: _model(number + 1),
    "AddField": lambda number: migrations.AddField(
        "part0", f"field{number}", models.IntegerField(default=0)
    ),
    "RunSQL": lambda number: migrations.RunSQL(
        "INSERT INTO stock_part0 DEFAULT VALUES"
    ),
}


class Migration(migrations.Migration):
    initial = True
    atomic = False
    operations = [_model(0), *map(_KINDS[KIND], range(COUNT))]
