"""The acts of the demo: one with django-safe-init, two without."""

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
    """Where a scene plays, and with how many."""

    console: Console
    server: Server
    replicas: int

    def environment(self, database: str) -> dict[str, str]:
        return {"DATABASE_URL": self.server.url(database)}

    def say(self, text: str = "", style: str = "") -> None:
        self.console.print(text, style=style)


def make_console() -> Console:
    """Standard output, whatever it is connected to."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Rather a question mark than an error where the encoding has not everything.
        sys.stdout.reconfigure(errors="replace")
    return Console(highlight=False, markup=False, emoji=False)


def play(stage: Stage, *, compare: bool, kill_leader: bool) -> bool:
    """All that was asked for; true if django-safe-init kept its promises."""
    count = len(checks.migrations_on_disk())
    stage.say(f"A shop with {count} migrations on {describe(stage.server)}", "dim")
    if compare:
        without_on_empty_database(stage)
        without_on_deployment(stage)
    return with_safe_init(stage, kill_leader=kill_leader)


def with_safe_init(stage: Stage, *, kill_leader: bool) -> bool:
    """Everybody runs `safe_migrate`; optionally the leader is killed in the middle."""
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
    """Everybody runs Django's own `migrate`."""
    _headline(
        stage,
        "Without it: the first start",
        "manage.py migrate",
        "on an empty database",
    )
    with fresh_database(stage.server) as database:
        _without(stage, database)


def without_on_deployment(stage: Stage) -> None:
    """The same where nothing but one data migration is missing, as in many a deployment."""
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
    """What the database must look like afterwards; stock `migrate` knows no steps."""
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
    """Until the last replica has ended."""
    with make_view(stage.console) as view:
        fleet.start()
        running = True
        while running and fleet.elapsed < LIMIT_SECONDS:
            running = fleet.poll()
            progress = observer.look() if observer else None
            if killer:
                killer.act(fleet, progress)
            view.show(fleet, progress, killer.note if killer else "")
            time.sleep(POLL_SECONDS)


def headline(stage: Stage, title: str, text: str) -> None:
    """What comes now."""
    stage.say()
    stage.say(title, "bold")
    stage.say(text)


def _headline(stage: Stage, title: str, command: str, where: str) -> None:
    text = f"{stage.replicas} x {command} at the same moment, {where}"
    headline(stage, title, text)
