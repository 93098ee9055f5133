"""`manage.py demo`: show how a fleet starts."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

import psycopg
from django.core.management.base import BaseCommand, CommandError, CommandParser

from demo.errors import DemoError, Stopped, stop_on_signals
from demo.servers import Server, open_server

REPLICAS, MOST_REPLICAS = "10", 200
TENANT_REPLICAS, LEAST_TENANTS, MOST_TENANTS = "4", 4, 1000
OTHERS = ("--replicas", "--kill-leader", "--compare", "--tenants")


class Command(BaseCommand):
    help = "Start replicas of the shop at once on an empty database, and show who does what."
    # Checks may open the default database, which the demo does not use.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--replicas", metavar="N", help=f"how many (default: {REPLICAS})"
        )
        parser.add_argument(
            "--kill-leader",
            action="store_true",
            help="kill the leader in the middle, and show who takes over",
        )
        parser.add_argument(
            "--compare",
            action="store_true",
            help="first show what Django's own migrate does in the same places",
        )
        parser.add_argument(
            "--tenants",
            metavar="N",
            help=f"give N shops a schema each, and kill the leader of {TENANT_REPLICAS} replicas",
        )
        parser.add_argument(
            "--serve",
            action="store_true",
            help="start a web server that initializes its database itself, until Ctrl-C",
        )

    def handle(self, **options: Any) -> None:
        tenants = options["tenants"] and whole_number(
            "--tenants", options["tenants"], MOST_TENANTS, least=LEAST_TENANTS
        )
        default = TENANT_REPLICAS if tenants else REPLICAS
        replicas = whole_number("--replicas", options["replicas"] or default)
        others = [each for each in OTHERS if options[each[2:].replace("-", "_")]]
        if options["serve"] and others:
            raise CommandError(
                f"--serve starts one web server: leave out {' and '.join(others)}.",
                returncode=2,
            )
        if tenants and (options["compare"] or options["kill_leader"]):
            raise CommandError(
                "--tenants kills the leader itself: leave out --compare and --kill-leader.",
                returncode=2,
            )
        if (options["kill_leader"] or tenants) and replicas == 1:
            raise CommandError(
                f"{'--tenants' if tenants else '--kill-leader'} needs 2 replicas: one must take "
                "over.",
                returncode=2,
            )
        # psycopg warns if a signal ends a query by closing its connection.
        logging.getLogger("psycopg").setLevel(logging.ERROR)
        try:
            with (
                stop_on_signals(),
                open_server(os.environ.get("DATABASE_URL")) as server,
            ):
                good = self._play(server, replicas, tenants, options)
        except DemoError as error:
            raise CommandError(str(error), returncode=error.code) from error
        except psycopg.Error as error:
            reason = str(error).strip().splitlines()[0]
            raise CommandError(f"The server failed: {reason}", returncode=4) from error
        except Stopped as stop:
            self.stderr.write(
                "Stopped: the processes are ended, the database is removed."
            )
            sys.exit(128 + stop.number)
        sys.exit(0 if good else 1)

    def _play(
        self,
        server: Server,
        replicas: int,
        tenants: int | None,
        options: dict[str, Any],
    ) -> bool:
        try:
            from demo.scenes import Stage, make_console, play
            from demo.serving import serve
            from demo.tenants import play_tenants
        except ImportError as error:
            raise DemoError(
                f"The demo needs {error.name}: pip install -e '.[demo]'", 2
            ) from error
        stage = Stage(make_console(), server, replicas)
        if options["serve"]:
            return serve(stage)
        if tenants:
            return play_tenants(stage, tenants)
        return play(
            stage, compare=options["compare"], kill_leader=options["kill_leader"]
        )


def whole_number(
    option: str, text: str, most: int = MOST_REPLICAS, *, least: int = 1
) -> int:
    """Parse the value of an option. Raise `CommandError` if it is not in range."""
    if not text.isdecimal() or not least <= int(text) <= most:
        sentence = (
            f"{option} must be a whole number from {least} to {most}, not '{text}'."
        )
        raise CommandError(sentence, returncode=2)
    return int(text)
