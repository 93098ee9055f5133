"""The scenes of the demo: one with django-safe-init, two without."""

from __future__ import annotations

import io
import sys
import time
from dataclasses import dataclass

from django.conf import settings
from rich.console import Console

from . import checks
from .errors import DemoError
from .fleet import Fleet
from .killer import Killer
from .observer import Observer
from .report import last_sentence, print_checks, print_errors, print_table
from .servers import Server, describe, fresh_database
from .views import make_view

POLL_SECONDS = 0.05
LIMIT_SECONDS = 600.0
STOCK = {"SHOP_STOCK": "1"}
BEFORE_SLOW_MIGRATION = ("catalog", "0012")


@dataclass
class Stage:
    """The console, the database server and the number of replicas of a scene."""

    console: Console
    server: Server
    replicas: int

    def environment(self, database: str) -> dict[str, str]:
        return {"DATABASE_URL": self.server.url(database)}

    def say(self, text: str = "", style: str = "") -> None:
        self.console.print(text, style=style)


def make_console() -> Console:
    """Return a console on standard output, which may be a terminal, a pipe or a file."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Print a question mark instead of raising if the encoding lacks a character.
        sys.stdout.reconfigure(errors="replace")
    return Console(highlight=False, markup=False, emoji=False)


def play(stage: Stage, *, compare: bool, kill_leader: bool) -> bool:
    """Play the requested scenes. Return True if django-safe-init kept its promises."""
    count = len(checks.migrations_on_disk())
    stage.say(f"A shop with {count} migrations on {describe(stage.server)}", "dim")
    if compare:
        without_on_empty_database(stage)
        without_on_deployment(stage)
    return with_safe_init(stage, kill_leader=kill_leader)


def with_safe_init(stage: Stage, *, kill_leader: bool) -> bool:
    """Run `safe_migrate` on every replica, and optionally kill the leader."""
    killer = Killer(settings.SHOP_SLOW_SECONDS / 2) if kill_leader else None
    title = "With django-safe-init" + (", and the leader is killed" if killer else "")
    _headline(stage, title, "manage.py safe_migrate", "on an empty database")
    with fresh_database(stage.server) as database:
        environment = stage.environment(database)
        command = ["safe_migrate", "--json"]
        with Fleet(stage.replicas, command, environment, guarded=True) as fleet:
            with Observer(stage.server.connect(database)) as observer:
                _run(stage, fleet, observer, killer)
            stage.say()
            print_table(stage.console, fleet)
            stage.say()
            leading = (
                checks.check_takeover(killer) if killer else checks.check_leader(fleet)
            )
            results = [checks.check_exit_codes(fleet), leading]
            good = print_checks(stage.console, results + left_behind(stage, database))
            print_errors(stage.console, fleet)
    return good


def without_on_empty_database(stage: Stage) -> None:
    """Run Django's own `migrate` on every replica, on an empty database."""
    _headline(
        stage,
        "Without it: the first start",
        "manage.py migrate",
        "on an empty database",
    )
    with fresh_database(stage.server) as database:
        _without(stage, database)


def without_on_deployment(stage: Stage) -> None:
    """Run Django's own `migrate` on every replica, with one data migration pending."""
    pending = "one data migration is new"
    _headline(stage, "Without it: a deployment", "manage.py migrate", pending)
    with fresh_database(stage.server) as database:
        _migrate_alone(stage, database)
        _migrate_alone(stage, database, *BEFORE_SLOW_MIGRATION)
        _without(stage, database)


def _without(stage: Stage, database: str) -> None:
    environment = {**stage.environment(database), **STOCK}
    with Fleet(stage.replicas, ["migrate"], environment) as fleet:
        _run(stage, fleet)
        codes = checks.check_exit_codes(fleet)
        stage.say()
        print_checks(stage.console, [codes])
        print_errors(stage.console, fleet)
        left = left_behind(stage, database, steps=False)
        good = print_checks(stage.console, left)
        if codes.passed and not good:
            stage.say("   Every exit code is 0: nobody is told.", "dim")


def left_behind(
    stage: Stage, database: str, *, steps: bool = True
) -> list[checks.Check]:
    """Check the database after a scene. Django's own `migrate` does not run steps."""
    with stage.server.connect(database) as connection:
        traces = checks.read_traces(connection)
    found = [checks.check_records(traces), *checks.check_data_migrations(traces)]
    return [*found, checks.check_step(traces)] if steps else found


def _migrate_alone(stage: Stage, database: str, *target: str) -> None:
    environment = {**stage.environment(database), **STOCK, "SHOP_SLOW_SECONDS": "0"}
    with Fleet(1, ["migrate", *target], environment) as fleet:
        fleet.start()
        while fleet.poll():
            time.sleep(POLL_SECONDS)
        [replica] = fleet.replicas
        if replica.exit_code:
            reason = last_sentence(replica)
            raise DemoError(f"The database could not be prepared: {reason}", 1)


def _run(
    stage: Stage,
    fleet: Fleet,
    observer: Observer | None = None,
    killer: Killer | None = None,
) -> None:
    """Show the fleet until the last replica has ended."""
    with make_view(stage.console) as view:
        fleet.start()
        running = True
        while running and fleet.elapsed < LIMIT_SECONDS:
            running = fleet.poll()
            progress = observer.poll() if observer else None
            if killer:
                killer.act(fleet, progress)
            view.show(fleet, progress, killer.note if killer else "")
            time.sleep(POLL_SECONDS)


def headline(stage: Stage, title: str, text: str) -> None:
    """Print the headline of a scene."""
    stage.say()
    stage.say(title, "bold")
    stage.say(text)


def _headline(stage: Stage, title: str, command: str, where: str) -> None:
    text = f"{stage.replicas} x {command} at the same moment, {where}"
    headline(stage, title, text)
