"""Many schemas of tenants, beside the commands of django-tenants."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import median

from tests.support import Database

from .project import Project, environment
from .report import Figure, seconds
from .stage import ROOMY, SCARCE, Stage
from .starts import alternate

FOLDER = Path(__file__).parents[1] / "tenants" / "project"
OURS = ("safe_migrate", "--jobs", "2")
STANDARD = ("migrate_schemas",)
PARALLEL = ("migrate_schemas", "--executor=multiprocessing")
#: The schemas of a comparison; each lacks the five migrations of the app `stock`.
SCHEMAS = 200
#: The schemas of a start with nothing to do.
MANY = 1000
#: The schemas beside which the cost of many is measured, and the starts at once.
FEW, STARTS = 10, 40
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

        def whole(command: str) -> float:
            return run(database, [command])

        whole("safe_migrate")
        baseline, ours = alternate(
            rounds, lambda: whole("version"), lambda: whole("safe_migrate")
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


def many_starts(stage: Stage, rounds: int = 9) -> Figure:
    """40 starts at once with nothing to do in 1,000 schemas, on a server with 100 connections.

    All must succeed. The figure is the time that a thousand schemas cost the database server in
    one start, beside a start with ten. The notes have the memory of the process.
    """
    with initialized(stage, FEW) as database:
        few, memory = costs_of_start(database, rounds)
    with initialized(stage, MANY) as database:
        many, memory_of_many = costs_of_start(database, rounds)
        ours = [start_together(database, STARTS) for _ in range(3)]
    return Figure(
        f"{STARTS} starts at once, nothing to do in {MANY} schemas: the server's time for one",
        seconds(many - few),
        "20.0 ms, none failed",
        many - few <= 0.02,
        ours,
        notes=[
            f"{FEW} schemas: server {seconds(few)}, process {memory:.1f} MiB",
            f"{MANY} schemas: server {seconds(many)}, process {memory_of_many:.1f} MiB",
        ],
    )


@contextmanager
def initialized(stage: Stage, size: int) -> Iterator[Database]:
    """Yield a database with so many tenants, in which nothing is left to do."""
    with prepared(stage, size, SCARCE) as name:
        database = Database(name, stage.server(SCARCE).params())
        run(database, OURS)
        run(database, ["safe_migrate"])
        yield database


def costs_of_start(database: Database, rounds: int) -> tuple[float, float]:
    """Return the medians of the server's seconds for one start, and of its MiB at most."""
    costs = [cost_of_start(database) for _ in range(rounds)]
    return median(each for each, _ in costs), median(each for _, each in costs)


def cost_of_start(database: Database) -> tuple[float, float]:
    """Return the seconds in which the server worked for one start, and its MiB at most."""
    query = (
        "SELECT active_time / 1000 AS seconds FROM pg_stat_database WHERE datname = %s"
    )

    def active_time() -> float:
        time.sleep(0.5)  # the server counts a session at its end
        with closing(database.connect(dbname="postgres")) as admin:
            return float(admin.execute(query, [database.name]).fetchone()["seconds"])

    before = active_time()
    process = start(database)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise AssertionError(f"a start exited with {process.returncode}")
    return active_time() - before, usage.ru_maxrss / 1024


def start_together(database: Database, number: int) -> float:
    """Start processes at once, and return the seconds until all have succeeded."""
    began = time.perf_counter()
    codes = [each.wait() for each in [start(database) for _ in range(number)]]
    if any(codes):
        raise AssertionError(f"exit codes of {number} starts: {codes}")
    return time.perf_counter() - began


def start(database: Database) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "manage.py", "safe_migrate"],
        cwd=FOLDER,
        env=variables_of(database),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
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
def prepared(stage: Stage, size: int, slots: int = ROOMY) -> Iterator[str]:
    """Yield the name of a database with so many tenants, whose app has no table yet."""
    with stage.database(slots, initialized=False) as database:
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
    return (
        Project(FOLDER)
        .run("manage.py", *command, environment=variables_of(database, **variables))
        .seconds
    )


def variables_of(database: Database, **variables: str) -> dict[str, str]:
    """Return the environment for a process of the project on this database."""
    parameters = database.parameters
    names = {
        "PGHOST": str(parameters["host"]),
        "PGPORT": str(parameters["port"]),
        "PGUSER": str(parameters["user"]),
        "PGDATABASE": database.name,
    }
    return environment(FOLDER, **names, **variables)
