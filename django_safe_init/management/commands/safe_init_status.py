"""What is true about a database, for people and for scripts."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any

from django.core.management.base import (
    BaseCommand,
    CommandError,
    CommandParser,
)
from django.db import DEFAULT_DB_ALIAS

from django_safe_init.backends import privileged_steps
from django_safe_init.conf import get_settings
from django_safe_init.core.build import current_build
from django_safe_init.core.deadline import Deadline
from django_safe_init.core.records import RunRow
from django_safe_init.core.signal_handling import Interrupted, interruptible
from django_safe_init.core.states import State
from django_safe_init.initialization.initializer import Initializer
from django_safe_init.initialization.types import InitializationOptions, MigrateTask
from django_safe_init.management.console import (
    command_errors,
    report_to,
    rich_table,
    terminal,
    text_table,
)
from django_safe_init.management.watch import PlainOutput, watch
from django_safe_init.status import StatusDetail, open_reader, read_detail, read_history

if TYPE_CHECKING:
    from rich.console import Console

NOT_READY = 3


class Command(BaseCommand):
    """Shows the state of a database; writes nothing and takes no lock."""

    help = (
        "Shows whether the database is initialized for this build, and what a leader is doing. "
        "Exit code: 0 ready, 1 error, 2 usage, 3 not ready, 4 unreachable."
    )
    requires_system_checks: list[str] = []
    #: Where standard output is a terminal and rich is installed.
    console: Console | None = None

    def add_arguments(self, parser: CommandParser) -> None:
        """The options."""
        add = parser.add_argument
        add("--database", default=DEFAULT_DB_ALIAS, metavar="ALIAS")
        add("--json", action="store_true", help="Print one JSON object.")
        add(
            "--watch",
            action="store_true",
            help="Show each change, until ready or error; live in a terminal with rich.",
        )
        add("--wait", action="store_true", help="Wait until this build is ready.")
        add(
            "--timeout",
            type=float,
            metavar="SECONDS",
            help="With --wait: for how long.",
        )
        add(
            "--history",
            type=int,
            default=0,
            metavar="N",
            help="Show the last N runs, too, the newest first.",
        )

    def handle(self, **options: Any) -> None:
        """Show it, and exit by it."""
        plain_only = options["json"] or not self.stdout.isatty()
        self.console = None if plain_only else terminal(color=not options["no_color"])
        try:
            with interruptible(), command_errors():
                scene, history = self._look(options)
        except Interrupted as exc:
            sys.exit(exc.exit_code)
        except CommandError as exc:
            if options["json"]:
                self._print_json({"database": options["database"], "error": str(exc)})
            raise
        if options["json"]:
            self._print_json(
                {
                    **scene.as_json(),
                    "history": [run.as_json() for run in history],
                }
            )
        else:
            self._print(scene, history)
        if not scene.status.ready:
            sys.exit(1 if scene.status.state is State.ERROR else NOT_READY)

    def _look(self, options: dict[str, Any]) -> tuple[StatusDetail, list[RunRow]]:
        alias = options["database"]
        if options["wait"]:
            work = MigrateTask(
                lambda: None, "safe_init_status", report=report_to(self.stderr)
            )
            Initializer(
                InitializationOptions(work, alias, "external", options["timeout"])
            ).run()
        if options["watch"]:
            self._watch(alias, options)
        reader = open_reader(alias, get_settings(), Deadline(0))
        with closing(reader):
            scene = read_detail(alias, reader, None)
            return scene, read_history(alias, reader, options["history"])

    def _watch(self, alias: str, options: dict[str, Any]) -> None:
        if self.console is None:
            watch(
                alias,
                PlainOutput(alias, self.stderr if options["json"] else self.stdout),
            )
            return
        from django_safe_init.management.live_view import LiveView

        with LiveView(alias, self.console) as view:
            watch(alias, view)

    def _undone(self, alias: str) -> list[str]:
        """The privileged steps that nobody has done."""
        steps = privileged_steps(alias, current_build())
        if not steps:
            return []
        from django_safe_init.privileged.status import pending_privileged

        return pending_privileged(alias, steps, get_settings()) or []

    def _print_json(self, value: dict[str, Any]) -> None:
        self.stdout.write(json.dumps(value))

    def _print(self, scene: StatusDetail, history: list[RunRow]) -> None:
        status, activity = scene.status, str(scene.activity or "")
        self.stdout.write(f"{status.database}: {status.state} - {status.message}")
        if activity:
            self.stdout.write(f"  statement: {activity}")
        if status.pending:
            self.stdout.write(f"  to apply: {', '.join(status.pending)}")
        for label in self._undone(status.database):
            self.stdout.write(f"  needs an administrator: {label}")
        if history and self.console is not None:
            self.console.print(rich_table(history))
        elif history:
            self.stdout.write(text_table(history))
