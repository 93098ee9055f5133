"""The scene of `demo --tenants`: many shops, each with a schema, and a leader that is killed."""

from __future__ import annotations

import importlib.util
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import psycopg
from psycopg import sql
from rich.console import Console
from rich.text import Text

from . import checks
from .errors import DemoError
from .fleet import Fleet
from .killer import Killer
from .observer import Observer, Progress
from .report import last_sentence, print_checks, print_errors, print_table
from .scenes import LIMIT_SECONDS, POLL_SECONDS, Stage, headline
from .servers import describe, fresh_database
from .views import make_view

JOBS = 2
# How long the slowest migration takes in each schema.
SLOW_SECONDS = "0.2"
STATES = """
    SELECT DISTINCT ON (schema) schema, state FROM django_safe_init_schema
    ORDER BY schema, id DESC
"""
CELLS = {"pending": ("·", "dim"), "done": ("■", "green"), "failed": ("✗", "bold red")}
ASCII = {"pending": ".", "done": "#", "failed": "X"}
CELLS_IN_A_LINE = 25


def play_tenants(stage: Stage, count: int) -> bool:
    """Play the scene. Return True if django-safe-init kept its promises."""
    if importlib.util.find_spec("django_tenants") is None:
        raise DemoError("The demo needs django-tenants: pip install -e '.[demo]'", 2)
    names = [f"shop_{number:04}" for number in range(1, count + 1)]
    stage.say(f"{count} shops, each with a schema, on {describe(stage.server)}", "dim")
    command = f"{stage.replicas} x manage.py safe_migrate --jobs {JOBS}"
    headline(
        stage,
        "A schema for each tenant, and the leader is killed",
        f"{command} at the same moment, and every schema is empty",
    )
    with fresh_database(stage.server) as database:
        environment = {
            **stage.environment(database),
            "DJANGO_SETTINGS_MODULE": "mysite.tenant_settings",
            "SHOP_SLOW_SECONDS": SLOW_SECONDS,
        }
        _create_shops(stage, database, environment, names)
        command_line = ["safe_migrate", "--json", "--jobs", str(JOBS)]
        with Fleet(stage.replicas, command_line, environment, guarded=True) as fleet:
            grid = Grid(names)
            killer = HalfwayKiller(0)
            with SchemaObserver(stage.server.connect(database), grid) as observer:
                _watch(stage, fleet, observer, killer)
            stage.say()
            stage.console.print(grid.picture(stage.console))
            stage.say()
            print_table(stage.console, fleet)
            stage.say()
            with stage.server.connect(database) as connection:
                found = _checks(fleet, killer, connection, names)
            good = print_checks(stage.console, found)
            print_errors(stage.console, fleet)
    return good


def _create_shops(
    stage: Stage, database: str, environment: dict[str, str], names: Sequence[str]
) -> None:
    """Initialize the shared schema, then create the shops with empty schemas."""
    with Fleet(1, ["safe_migrate"], environment) as fleet:
        fleet.start()
        while fleet.poll():
            time.sleep(POLL_SECONDS)
        [replica] = fleet.replicas
        if replica.exit_code:
            reason = last_sentence(replica)
            raise DemoError(f"The shared schema could not be prepared: {reason}", 1)
    insert = "INSERT INTO shops_shop (schema_name, name) VALUES (%s, %s)"
    with stage.server.connect(database) as connection:
        for name in names:
            connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))
            connection.execute(insert, [name, name])


@dataclass
class Grid:
    """The state of each schema: pending, done or failed."""

    names: Sequence[str]

    def __post_init__(self) -> None:
        self.states = dict.fromkeys(self.names, "pending")

    @property
    def counts(self) -> Counter[str]:
        return Counter(self.states.values())

    def picture(self, console: Console) -> Text:
        """Return a cell for each schema, and the numbers below."""
        text = Text()
        for number, state in enumerate(self.states.values()):
            if number % CELLS_IN_A_LINE == 0:
                text.append("\n  " if number else "  ")
            character, style = CELLS[state]
            if console.options.ascii_only:
                character = ASCII[state]
            text.append(f"{character} ", style=style)
        counts = ", ".join(f"{self.counts[state]} {state}" for state in CELLS)
        return text.append(f"\n\n  {counts}")


class SchemaObserver(Observer):
    """Reads the state of each schema, too."""

    def __init__(self, connection: psycopg.Connection[Any], grid: Grid) -> None:
        super().__init__(connection)
        self.grid = grid

    def _read(self) -> Progress | None:
        progress = super()._read()
        if progress is None:
            return None
        known = dict(self._connection.execute(STATES).fetchall())
        self.grid.states.update(known)
        counts = self.grid.counts
        return replace(
            progress, done=counts["done"], total=counts.total(), migration=""
        )


class HalfwayKiller(Killer):
    """Kills the leader once half of the schemas are done."""

    def _is_time(self, progress: Progress) -> bool:
        return progress.done * 2 >= progress.total


def _watch(
    stage: Stage, fleet: Fleet, observer: SchemaObserver, killer: Killer
) -> None:
    """Show the fleet and the grid until the last replica has ended."""
    with make_view(stage.console) as view:
        fleet.start()
        running = True
        while running and fleet.elapsed < LIMIT_SECONDS:
            running = fleet.poll()
            progress = observer.poll()
            killer.act(fleet, progress)
            view.show(
                fleet, progress, killer.note, observer.grid.picture(stage.console)
            )
            time.sleep(POLL_SECONDS)
        observer.poll()


# The result


def _checks(
    fleet: Fleet,
    killer: Killer,
    connection: psycopg.Connection[Any],
    names: Sequence[str],
) -> list[checks.Check]:
    seconds = f"{fleet.elapsed:.1f} s"
    return [
        checks.check_exit_codes(fleet),
        checks.check_takeover(killer),
        _check_records(connection, names, seconds),
        *_check_data_migrations(connection, names),
    ]


def _check_records(
    connection: psycopg.Connection[Any], names: Sequence[str], seconds: str
) -> checks.Check:
    """Check that each schema has the records of the shared schema, each once."""
    expected = _records(connection, "public")
    wrong = [name for name in names if _records(connection, name) != expected]
    count = f"{len(expected)} migrations"
    if wrong:
        text = (
            f"{len(wrong)} of {len(names)} schemas do not have all {count}, each once"
        )
        return checks.Check(False, text)
    text = f"all {count} are recorded once in each of {len(names)} schemas, after {seconds}"
    return checks.Check(set(expected.values()) == {1}, text)


def _check_data_migrations(
    connection: psycopg.Connection[Any], names: Sequence[str]
) -> list[checks.Check]:
    """Check that each data migration ran once in each schema."""
    ran: Counter[str] = Counter()
    for name in names:
        counts = _count(connection, name, "catalog_changelog", "migration")
        ran.update(each for each in checks.DATA_MIGRATIONS if counts[each] == 1)
    return [
        checks.Check(
            ran[each] == len(names),
            f"the data migration {each} ran once in {ran[each]} of {len(names)} schemas",
        )
        for each in checks.DATA_MIGRATIONS
    ]


def _records(connection: psycopg.Connection[Any], schema: str) -> Counter[str]:
    return _count(connection, schema, "django_migrations", "app || '.' || name")


def _count(
    connection: psycopg.Connection[Any], schema: str, table: str, value: str
) -> Counter[str]:
    """Return how often a table has each value. A table that does not exist is empty."""
    name = sql.Identifier(schema, table)
    query = sql.SQL("SELECT {}, count(*) FROM {} GROUP BY 1")
    try:
        rows = connection.execute(query.format(sql.SQL(value), name)).fetchall()
    except psycopg.errors.UndefinedTable:
        rows = []
    return Counter(dict(rows))
