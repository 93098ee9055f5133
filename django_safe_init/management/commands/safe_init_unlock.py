"""`safe_init_unlock`: show the leader, and terminate its database sessions."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser

from django_safe_init.backends import get_backend, require_lock
from django_safe_init.backends.base.context import Context
from django_safe_init.conf import get_settings
from django_safe_init.core.build import current_build
from django_safe_init.core.databases import check_alias, chosen_aliases
from django_safe_init.core.deadline import Deadline
from django_safe_init.core.text import printable, printable_hint
from django_safe_init.management.base import DATABASE_HELP, SafeInitCommand
from django_safe_init.management.console import confirm, report_to

_SECONDS_TO_END = 10.0


class Command(SafeInitCommand):
    """Terminates the holder of the leader lock."""

    help = (
        "Shows who holds the leader lock and what it is doing; after confirmation, ends that "
        "leader's database sessions, so that another replica takes over. "
        "Exit code: 0 ended or nothing held, 1 refused, 2 usage, 4 unreachable."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options."""
        parser.add_argument("--database", metavar="ALIAS", help=DATABASE_HELP)
        parser.add_argument(
            "--noinput",
            "--no-input",
            action="store_false",
            dest="interactive",
            help="Do not ask.",
        )

    def run(self, options: dict[str, Any]) -> int:
        """Show the leaders of the databases, and terminate each after confirmation."""
        for alias in chosen_aliases(options["database"], get_settings()):
            self._unlock(alias, interactive=options["interactive"])
        return 0

    def _unlock(self, alias: str, *, interactive: bool) -> None:
        check_alias(alias)
        require_lock(alias)
        settings, report = get_settings(), report_to(self.stderr)
        deadline = Deadline(settings.connect_timeout)
        context = Context(alias, current_build(), settings, deadline, report)
        with get_backend(context).lock_holder() as holder:
            if holder is None:
                self.stdout.write(f"{alias}: nobody holds the leader lock")
                return
            self.stdout.write(f"{alias}: " + "\n".join(map(printable, holder.lines())))
            if holder.refusal is not None:
                raise CommandError(printable_hint(holder.refusal))
            if interactive:
                confirm(holder.question, "Nothing was ended", self.stdout)
            reason = holder.end(_SECONDS_TO_END)
        if reason is not None:
            raise CommandError(printable(reason))
        self.stdout.write(f"{alias}: ended; a replica that waits takes over")
