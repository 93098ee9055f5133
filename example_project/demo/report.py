"""The report after a scene: the table, the checks and the errors of failed replicas."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .checks import Check
from .fleet import Fleet, Replica

# The last line of a traceback: `django.db.utils.ProgrammingError: relation "x" already exists`.
ERROR = re.compile(r"^(?:\w+\.)*(\w+(?:Error|Exception|Interrupt)\b.*)$")


def print_table(console: Console, fleet: Fleet) -> None:
    """Print a table with one row for each replica."""
    table = Table(box=None, padding=(0, 2), header_style="bold", pad_edge=True)
    for heading in ("replica", "role", "exit code", "waited", "applied", "total"):
        table.add_column(heading, justify="left" if heading == "role" else "right")
    for replica in fleet.replicas:
        style = (
            "red" if replica.exit_code else "bold" if role(replica) == "leader" else ""
        )
        table.add_row(*_cells(replica), style=style)
    console.print(table)


def role(replica: Replica) -> str:
    """Return the role that the replica reports. A killed replica cannot report one."""
    return "leader, killed" if replica.killed else str(replica.report.get("role", "-"))


def _cells(replica: Replica) -> Iterable[str]:
    report = replica.report
    yield str(replica.number)
    yield role(replica)
    yield "still running" if replica.exit_code is None else str(replica.exit_code)
    yield f"{report['waited_seconds']:.1f} s" if "waited_seconds" in report else "-"
    yield str(len(report["applied"])) if "applied" in report else "-"
    yield "-" if replica.ended_after is None else f"{replica.ended_after:.1f} s"


def print_checks(console: Console, checks: Iterable[Check]) -> bool:
    """Print the checks with a tick or a cross each. Return True if all passed."""
    good = True
    for check in checks:
        mark, style = marks(console)[check.passed]
        console.print(
            Text(f" {mark} ", style=style).append(check.text, style="default")
        )
        good = good and check.passed
    return good


def marks(console: Console) -> dict[bool, tuple[str, str]]:
    """Return the tick and the cross, or words if the output cannot encode them."""
    if console.options.ascii_only:
        return {True: ("ok", "green"), False: ("NO", "red")}
    return {True: ("\N{CHECK MARK}", "bold green"), False: ("\N{BALLOT X}", "bold red")}


def print_errors(console: Console, fleet: Fleet, most: int = 4) -> None:
    """Print the last sentence of each failed replica, without repetitions."""
    failed = [
        replica
        for replica in fleet.replicas
        if replica.exit_code and not replica.killed
    ]
    sentences = Counter(last_sentence(replica) for replica in failed)
    for sentence, count in sentences.most_common(most):
        line = Text(f"   {count} x ", style="red").append(sentence, style="dim")
        console.print(line, no_wrap=True, overflow="ellipsis")
    if len(sentences) > most:
        console.print(f"   and {len(sentences) - most} other errors", style="dim")


def last_sentence(replica: Replica) -> str:
    """Return the reason of a failure: the reported error, or the last line of an exception."""
    if replica.report.get("error"):
        return str(replica.report["error"])
    lines = [line.strip() for line in replica.error_text.splitlines() if line.strip()]
    found = [match[1] for line in lines if (match := ERROR.match(line))]
    return (found or lines or ["nothing"])[-1]
