"""Many schemas of tenants, beside the commands of django-tenants."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from tests.support import Database

from .project import Project, environment
from .report import Figure, seconds
from .stage import ROOMY, Stage
from .starts import alternate

FOLDER = Path(__file__).parents[1] / "tenants" / "project"
OURS = ("safe_migrate", "--jobs", "2")
STANDARD = ("migrate_schemas",)
PARALLEL = ("migrate_schemas", "--executor=multiprocessing")
#: The schemas of a comparison; each lacks the five migrations of the app `stock`.
SCHEMAS = 200
#: The schemas of a start with nothing to do.
MANY = 1000
SIZES = (10, 30, 100, 300, 1000, 2000)


def beside_one_process(stage: Stage, rounds: int = 5) -> Figure:
    """`safe_migrate --jobs 2` ÷ django-tenants' `migrate_schemas`, 200 schemas, 5 migrations each.

    One of the five runs Python in each schema. Whole processes, in turn, on two cores.
    """
    return compare(stage, rounds, STANDARD, 0.3)


def beside_two_processes(stage: Stage, rounds: int = 5) -> Figure:
    """`safe_migrate --jobs 2` ÷ `migrate_schemas` with its executor of two processes.

    The same schemas and migrations. Whole processes, in turn, on two cores.
    """
    return compare(stage, rounds, PARALLEL, 0.4)


def compare(stage: Stage, rounds: int, command: Sequence[str], limit: float) -> Figure:
    with prepared(stage, SCHEMAS) as template:
        baseline, ours = alternate(
            rounds,
            lambda: migrate(stage, template, command, PLAIN="1"),
            lambda: migrate(stage, template, OURS),
        )
    ratio = median(ours) / median(baseline)
    return Figure(
        f"{SCHEMAS} schemas, 5 migrations each ÷ {' '.join(command)}",
        f"{ratio:.2f}",
        f"{limit:g}",
        ratio <= limit,
        ours,
        baseline,
        limit_seconds=limit * median(baseline),
    )


def nothing_to_do(stage: Stage, rounds: int = 9) -> Figure:
    """A whole `safe_migrate` with nothing to do in 1,000 schemas ÷ `manage.py version`.

    `version` imports Django and the settings, and opens no connection.
    """
    with prepared(stage, MANY) as template, copied(stage, template) as database:
        run(database, OURS)

        def time(command: str) -> float:
            return run(database, [command])

        time("safe_migrate")
        baseline, ours = alternate(
            rounds, lambda: time("version"), lambda: time("safe_migrate")
        )
    ratio = median(ours) / median(baseline)
    return Figure(
        f"nothing to do in {MANY} schemas ÷ manage.py version",
        f"{ratio:.2f}",
        "1.2",
        ratio <= 1.2,
        ours,
        baseline,
        limit_seconds=1.2 * median(baseline),
    )


def curve(stage: Stage, rounds: int = 1) -> Figure:
    """`safe_migrate --jobs 2` for five migrations in 10 to 2,000 schemas.

    The figure is the time for one schema among the most, ÷ the same among 100.
    """
    notes, ours = [], []
    for size in SIZES:
        with prepared(stage, size) as template:
            times = [migrate(stage, template, OURS, size=size) for _ in range(rounds)]
        ours.append(median(times))
        each = ours[-1] / size * 1000
        notes.append(f"{size} schemas: {seconds(ours[-1])}, {each:.1f} ms each")
    per_schema = [total / size for total, size in zip(ours, SIZES, strict=True)]
    ratio = per_schema[-1] / per_schema[SIZES.index(100)]
    return Figure(
        f"a schema among {SIZES[-1]} ÷ among 100",
        f"{ratio:.2f}",
        "2",
        ratio <= 2,
        ours,
        notes=notes,
    )


@contextmanager
def prepared(stage: Stage, size: int) -> Iterator[str]:
    """Yield the name of a database with so many tenants, whose app has no table yet."""
    with stage.database(initialized=False) as database:
        variables = {"WITHOUT_STOCK": "1"}
        run(database, ["safe_migrate"], **variables)
        database.rows(
            "INSERT INTO customers_customer (schema_name, name, size)"
            " SELECT 'tenant_' || n, '', n FROM generate_series(1, %s) n",
            size,
        )
        for number in range(1, size + 1):
            database.rows(f"CREATE SCHEMA tenant_{number}")
        run(database, OURS, **variables)
        database.close()
        yield database.name


@contextmanager
def copied(stage: Stage, template: str) -> Iterator[Database]:
    server = stage.server(ROOMY)
    name = f"benchmark_{os.urandom(4).hex()}"
    server.create_database(name, template=template)
    database = Database(name, server.params())
    try:
        yield database
    finally:
        database.close()
        server.drop_database(name)


def migrate(
    stage: Stage,
    template: str,
    command: Sequence[str],
    size: int = SCHEMAS,
    **variables: str,
) -> float:
    """Return the seconds of the command; each schema must have its rows afterwards."""
    with copied(stage, template) as database:
        total = run(database, command, **variables)
        done = database.value(
            f"SELECT (SELECT count(*) FROM tenant_{size}.stock_box) + count(*)"
            f" FROM tenant_{size}.django_migrations WHERE app = 'stock'"
        )
    if done != 6:
        raise AssertionError(f"{command} left {done} rows in a schema, not 6")
    return total


def run(database: Database, command: Sequence[str], **variables: str) -> float:
    parameters = database.parameters
    names = {
        "PGHOST": str(parameters["host"]),
        "PGPORT": str(parameters["port"]),
        "PGUSER": str(parameters["user"]),
        "PGDATABASE": database.name,
    }
    return (
        Project(FOLDER)
        .run(
            "manage.py",
            *command,
            environment=environment(FOLDER, **names, **variables),
        )
        .seconds
    )
