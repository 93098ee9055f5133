"""Who leads, and the end of it."""

from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DEFAULT_DB_ALIAS

from django_safe_init.backends import get_backend
from django_safe_init.backends.base.context import Context
from django_safe_init.conf import get_settings
from django_safe_init.core.build import current_build
from django_safe_init.core.databases import check_alias
from django_safe_init.core.deadline import Deadline
from django_safe_init.core.signal_handling import Interrupted, interruptible
from django_safe_init.management.console import command_errors, report_to

_SECONDS_TO_END = 10.0


class Command(BaseCommand):
    """Ends whoever holds the leader lock."""

    help = (
        "Shows who holds the leader lock and what it is doing; after confirmation, ends that "
        "leader's database sessions, so that another replica takes over. "
        "Exit code: 0 ended or nothing held, 1 refused, 2 usage, 4 unreachable."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        """The options."""
        parser.add_argument("--database", default=DEFAULT_DB_ALIAS, metavar="ALIAS")
        parser.add_argument(
            "--noinput",
            "--no-input",
            action="store_false",
            dest="interactive",
            help="Do not ask.",
        )

    def handle(self, **options: Any) -> None:
        """Show, ask, end."""
        try:
            with interruptible(), command_errors():
                self._unlock(options["database"], interactive=options["interactive"])
        except Interrupted as exc:
            sys.exit(exc.exit_code)

    def _unlock(self, alias: str, *, interactive: bool) -> None:
        check_alias(alias)
        settings, report = get_settings(), report_to(self.stderr)
        context = Context(
            alias, current_build(), settings, Deadline(settings.connect_timeout), report
        )
        with get_backend(context).lock_holder() as holder:
            if holder is None:
                self.stdout.write(f"{alias}: nobody holds the leader lock")
                return
            self.stdout.write(f"{alias}: " + "\n".join(holder.lines()))
            if interactive:
                self._confirm(holder.question)
            reason = holder.end(_SECONDS_TO_END)
        if reason is not None:
            raise CommandError(reason)
        self.stdout.write(f"{alias}: ended; a replica that waits takes over")

    def _confirm(self, question: str) -> None:
        if not sys.stdin.isatty():
            raise CommandError(
                "Nothing was ended: there is no terminal to confirm it on. Add --noinput."
            )
        try:
            answer = input(f"{question} [y/N] ")
        except EOFError:
            answer = ""
        if answer.strip().lower() not in ("y", "yes"):
            raise CommandError("Nothing was ended.")
