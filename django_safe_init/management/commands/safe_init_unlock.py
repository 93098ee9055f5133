"""Who leads, and the end of it."""

from __future__ import annotations

import sys
from typing import Any

import psycopg
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DEFAULT_DB_ALIAS

from django_safe_init.build import current_build
from django_safe_init.conf import get_settings
from django_safe_init.connections import (
    Deadline,
    Session,
    check_alias,
    connect,
    make_wrapper,
    one_line,
    require_postgresql,
)
from django_safe_init.exceptions import DatabaseUnreachable
from django_safe_init.holder import find_holder
from django_safe_init.locks.ending import end_backends
from django_safe_init.management.interrupts import Interrupted, interruptible
from django_safe_init.management.output import command_errors, report_to
from django_safe_init.reading import Reader

_SECONDS_TO_END = 10.0


class Command(BaseCommand):
    """Ends the database sessions of whoever holds the leader lock."""

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
        require_postgresql(alias)
        try:
            with self._connect(alias) as session:
                session.protect()  # the answer may take longer than the role's time-outs
                self._end_holder(session, interactive=interactive)
        except psycopg.OperationalError as exc:
            raise DatabaseUnreachable(
                f"The connection to {alias!r} ended: {one_line(exc)}"
            ) from exc

    def _end_holder(self, session: Session, *, interactive: bool) -> None:
        alias, lock_key = session.alias, get_settings().lock_key
        holder = find_holder(Reader(session, current_build(), lock_key), lock_key)
        if holder is None:
            self.stdout.write(f"{alias}: nobody holds the leader lock")
            return
        self.stdout.write(f"{alias}: " + "\n".join(holder.lines()))
        if interactive:
            self._confirm()
        reason = end_backends(session, holder.backends, _SECONDS_TO_END)
        if reason is not None:
            raise CommandError(reason)
        self.stdout.write(f"{alias}: ended; a replica that waits takes over")

    def _connect(self, alias: str) -> Session:
        """A session straight to the server, where the leader's own are."""
        settings = get_settings()
        wrapper = make_wrapper(alias, settings.direct.get(alias))
        patience = Deadline(settings.connect_timeout)
        report = report_to(self.stderr)
        return connect(wrapper, settings, patience, "safe_init unlock", report)

    def _confirm(self) -> None:
        if not sys.stdin.isatty():
            raise CommandError(
                "Nothing was ended: there is no terminal to confirm it on. Add --noinput."
            )
        try:
            answer = input("End these sessions? [y/N] ")
        except EOFError:
            answer = ""
        if answer.strip().lower() not in ("y", "yes"):
            raise CommandError("Nothing was ended.")
