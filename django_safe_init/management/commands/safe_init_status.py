"""`safe_init_status`: show the status of a database, to people and to scripts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from django.core.management.base import CommandParser
from django.db import DEFAULT_DB_ALIAS

from django_safe_init.backends import check_driver, privileged_steps
from django_safe_init.conf import get_settings
from django_safe_init.core.build import current_build
from django_safe_init.core.databases import check_alias, chosen_aliases
from django_safe_init.core.deadline import Deadline
from django_safe_init.core.records import RunRow
from django_safe_init.core.schemas import TenantState
from django_safe_init.core.states import State
from django_safe_init.core.text import printable, printable_hint, wrap
from django_safe_init.exceptions import ConfigurationError
from django_safe_init.initialization.initializer import Initializer
from django_safe_init.initialization.types import InitializationOptions, MigrateTask
from django_safe_init.management.base import DATABASE_HELP, JsonCommand
from django_safe_init.management.console import (
    format_names,
    report_to,
    rich_table,
    terminal,
    text_table,
)
from django_safe_init.management.results import WORST_FIRST
from django_safe_init.management.run_report import format_run
from django_safe_init.management.tenant_report import (
    format_counts,
    format_tenant,
    format_tenants,
)
from django_safe_init.management.watch import PlainOutput, watch
from django_safe_init.status import (
    StatusDetail,
    open_reader,
    read_detail,
    read_half_done,
    read_history,
    read_run,
    read_tenant,
    read_tenants,
)

if TYPE_CHECKING:
    from rich.console import Console

NOT_READY = 3


class Command(JsonCommand):
    """Shows the status of a database; writes nothing and takes no lock."""

    help = (
        "Shows whether the database is initialized for this build, and what a leader is doing. "
        "Exit code: 0 ready, 1 error, 2 usage, 3 not ready, 4 unreachable."
    )
    #: Set if standard output is a terminal and rich is installed.
    console: Console | None = None

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options."""
        add = parser.add_argument
        add("--database", metavar="ALIAS", help=DATABASE_HELP)
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
        add(
            "--run",
            type=int,
            metavar="N",
            help="Show only run N: its steps, its error and the traceback.",
        )
        add("--schemas", action="store_true", help="List the schemas of all tenants.")
        add(
            "--schema",
            metavar="NAME",
            help="Show only this schema of a tenant, and what it lacks.",
        )

    def run(self, options: dict[str, Any]) -> int:
        """Show the databases, and return the exit code of the worst status."""
        plain_only = options["json"] or not self.stdout.isatty()
        self.console = None if plain_only else terminal(color=not options["no_color"])
        settings = get_settings()
        aliases = chosen_aliases(options["database"], settings)
        _check_options(aliases, options)
        objects: list[dict[str, Any]] = []
        codes: list[int] = []
        for alias in aliases:
            self._alias = alias
            check_alias(alias)
            check_driver(alias, settings)
            show = self._show(options)
            codes.append(show(alias, options, objects))
        if options["json"]:
            several = {"databases": objects}
            self.print_json(objects[0] if len(objects) == 1 else several)
        return min(codes, key=WORST_FIRST.index)

    def error_as_json(self, error: str, options: dict[str, Any]) -> dict[str, Any]:
        """Return the JSON object of an error of the database that was read."""
        alias = getattr(self, "_alias", options["database"] or DEFAULT_DB_ALIAS)
        return {"database": alias, "error": error}

    def _show(self, options: dict[str, Any]) -> Callable[..., int]:
        if options["run"] is not None:
            return self._show_run
        if options["schemas"]:
            return self._show_tenants
        return self._show_status if options["schema"] is None else self._show_tenant

    def _show_tenants(
        self, alias: str, options: dict[str, Any], objects: list[dict[str, Any]]
    ) -> int:
        """Print the schemas of all tenants, or add their object."""
        with closing(open_reader(alias, get_settings(), Deadline(0))) as reader:
            tenants = read_tenants(alias, reader)
        if options["json"]:
            listed = [each.as_json() for each in tenants]
            objects.append({"database": alias, "tenants": listed})
        else:
            self.stdout.write("\n".join(format_tenants(alias, tenants)))
        return _code_of(each.state for each in tenants)

    def _show_tenant(
        self, alias: str, options: dict[str, Any], objects: list[dict[str, Any]]
    ) -> int:
        """Print one schema of a tenant, or add its object."""
        with closing(open_reader(alias, get_settings(), Deadline(0))) as reader:
            tenant = read_tenant(alias, reader, options["schema"])
        if options["json"]:
            objects.append({"database": alias, "tenant": tenant.as_json()})
        else:
            show_all = options["verbosity"] > 1
            lines = format_tenant(alias, tenant, show_all=show_all)
            self.stdout.write("\n".join(lines))
        return _code_of([tenant.state])

    def _show_status(
        self, alias: str, options: dict[str, Any], objects: list[dict[str, Any]]
    ) -> int:
        """Wait or watch if an option says so, then print the status or add its object."""
        if options["wait"]:
            self._wait(alias, options["timeout"])
        if options["watch"]:
            self._watch(alias, as_json=options["json"])
        detail, history, half_done = self._read(alias, options["history"])
        if options["json"]:
            runs = [run.as_json() for run in history]
            objects.append({**detail.as_json(), "history": runs})
        else:
            show_all = options["verbosity"] > 1
            self._print(detail, history, half_done, show_all=show_all)
        if detail.status.ready:
            return 0
        return 1 if detail.status.state is State.ERROR else NOT_READY

    def _show_run(
        self, alias: str, options: dict[str, Any], objects: list[dict[str, Any]]
    ) -> int:
        """Print one run, or add its object, of which the traceback is never a part."""
        with closing(open_reader(alias, get_settings(), Deadline(0))) as reader:
            report = read_run(alias, reader, options["run"])
        if options["json"]:
            objects.append(report.as_json())
        else:
            self.stdout.write("\n".join(format_run(report)))
        return 0

    def _wait(self, alias: str, timeout: float | None) -> None:
        task = MigrateTask(
            lambda: None, "safe_init_status", report=report_to(self.stderr)
        )
        Initializer(InitializationOptions(task, alias, "external", timeout)).run()

    def _watch(self, alias: str, *, as_json: bool) -> None:
        if self.console is None:
            watch(alias, PlainOutput(alias, self.stderr if as_json else self.stdout))
            return
        from django_safe_init.management.live_view import LiveView

        with LiveView(alias, self.console) as view:
            watch(alias, view)

    def _read(
        self, alias: str, count: int
    ) -> tuple[StatusDetail, list[RunRow], list[str]]:
        """Return the status, the history, and a line for each migration that is half done."""
        settings = get_settings()
        with closing(open_reader(alias, settings, Deadline(0))) as reader:
            detail = read_detail(alias, reader, None)
            runs = read_history(alias, reader, count)
            if detail.running:
                return detail, runs, []
            error = detail.status.error or ""
            return detail, runs, read_half_done(alias, reader, settings, error)

    def _line(self, line: str) -> None:
        self.stdout.write(printable(line))

    def _print(
        self,
        detail: StatusDetail,
        history: list[RunRow],
        half_done: list[str],
        *,
        show_all: bool,
    ) -> None:
        status, activity = detail.status, str(detail.activity or "")
        start = f"{status.database}: {status.state} - "
        self.stdout.write(printable_hint(wrap(start, status.message)))
        if activity:
            self._line(f"  statement: {activity}")
        for line in format_counts(status):
            self._line(line)
        for line in half_done:
            self._line(f"  half done: {line}")
        for title, names in (
            ("to apply", status.pending),
            ("unknown to this build", status.unknown if show_all else ()),
            ("needs an administrator", _pending_privileged(status.database)),
        ):
            for line in format_names(title, names, show_all=show_all):
                self._line(line)
        if history and self.console is not None:
            self.console.print(rich_table(history))
        elif history:
            self.stdout.write(text_table(history))


#: The options that show something else than the status, and what they show.
_VIEWS = {
    "run": "one run",
    "schemas": "the schemas of tenants",
    "schema": "one schema",
}


def _check_options(aliases: Sequence[str], options: dict[str, Any]) -> None:
    chosen = [name for name in _VIEWS if options[name] not in (None, False)]
    if len(chosen) > 1:
        raise ConfigurationError(
            f"--{chosen[0]} and --{chosen[1]} show different things: leave one out."
        )
    for name in chosen:
        if options["wait"] or options["watch"] or options["history"]:
            raise ConfigurationError(
                f"--{name} shows {_VIEWS[name]}: leave out --wait, --watch and --history."
            )
        if name != "schemas" and len(aliases) > 1:
            raise ConfigurationError(
                f"--{name} is about one database: name it with --database."
            )


def _code_of(states: Iterable[TenantState]) -> int:
    """Return the exit code for schemas. A tenant without a schema has nothing to migrate."""
    found = set(states)
    if TenantState.FAILED in found:
        return 1
    return NOT_READY if TenantState.BEHIND in found else 0


def _pending_privileged(alias: str) -> list[str]:
    steps = privileged_steps(alias, current_build())
    if not steps:
        return []
    from django_safe_init.privileged.status import pending_privileged

    return pending_privileged(alias, steps, get_settings()) or []
