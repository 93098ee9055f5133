"""Each command of a hint stands on a line of its own, or is the only one of its line."""

from __future__ import annotations

import ast
import logging
import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import django_safe_init
from django_safe_init.backends.base.recorder import repeated_failure
from django_safe_init.backends.postgresql.lock_holders import Holder, locked_tables
from django_safe_init.core.findings import Finding, FindingKind
from django_safe_init.core.log import make_log_printable
from django_safe_init.core.records import MAX_TRANSIENT_FAILURES, Blocker
from django_safe_init.core.text import (
    Hint,
    first_line,
    message_of,
    one_line,
    printable_hint,
    stored_hint,
    with_commands,
    wrap,
)
from django_safe_init.exceptions import LeaderFailed
from django_safe_init.management.console import report_to, text_table
from tests.unit.snapshots import ended_run, run_row

PACKAGE = Path(django_safe_init.__file__).parent
#: A command in a text, or a placeholder that stands for one.
_COMMAND = re.compile(
    r"manage\.py \w|SELECT pg_\w+\(|ROLLBACK PREPARED|\bGRANT [A-Z{]|ALTER (TABLE|ROLE|DATABASE)"
    r"|REINDEX|\bkill \{"
    r"|\{[^{}]*(how_to_\w+|remed\w+|COMMAND|\bcommand\b|\brepair\b|\bagain\b|grants?\b)[^{}]*\}"
)
#: The texts that describe a command which the user has typed, and no remedy.
_NO_HINT = {"{run.leader_title} ({run.command}), for {run.age_seconds:.0f} s, "}


def texts(node: ast.AST) -> Iterator[str]:
    """Yield the strings of the source, with `{expression}` for a placeholder."""
    if isinstance(node, ast.JoinedStr):
        yield "".join(
            str(part.value)
            if isinstance(part, ast.Constant)
            else f"{{{ast.unparse(part.value)}}}"
            for part in node.values
            if isinstance(part, (ast.Constant, ast.FormattedValue))
        )
        return
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    for child in ast.iter_child_nodes(node):
        yield from texts(child)


def is_prose(text: str) -> bool:
    """Return True unless the text is SQL for the database."""
    return not text.lstrip().startswith(("SELECT", "ALTER", "GRANT", "WITH", "UPDATE"))


def test_texts_of_the_package() -> None:
    """No text of the package puts two commands into one line."""
    crowded = [
        (path.name, line)
        for path in sorted(PACKAGE.rglob("*.py"))
        for text in texts(ast.parse(path.read_text()))
        if is_prose(text)
        for line in text.splitlines()
        if len(_COMMAND.findall(line)) > 1
    ]
    assert crowded == []


def test_commands_are_found() -> None:
    """The pattern of the test above finds two commands, as texts and as placeholders."""
    source = "f'{a}: python manage.py safe_migrate --rerun {b} -- or python manage.py migrate'"
    [text] = texts(ast.parse(source))
    assert len(_COMMAND.findall(text)) == 2
    [text] = texts(ast.parse("f'{self.how_to_end(pid)}, or {each.remedy}'"))
    assert len(_COMMAND.findall(text)) == 2


def test_no_command_is_joined() -> None:
    """No statement joins commands with a separator other than a line feed."""
    joined = [
        (path.name, ast.unparse(node))
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("' '.join", "', '.join", "'; '.join")
        and re.search(r"remed|repair|how_to|command", ast.unparse(node.args[0]))
    ]
    assert joined == []


SESSIONS = [Holder(n, "report", "psql", None, None, "shop") for n in range(9)]
PREPARED = [Holder(-1, "report", "now", "shop", f"x{n}", "shop") for n in range(2)]
FINDING = Finding(
    FindingKind.MISSING_COLUMN,
    "error",
    "t.c",
    None,
    "It is missing.",
    ("python manage.py makemigrations shop", "python manage.py safe_migrate"),
)
HINT = Hint("Do this:", "python manage.py one", "SELECT pg_terminate_backend(1);")


@pytest.mark.parametrize(
    "hint",
    [
        lambda: str(FINDING),
        lambda: locked_tables(SESSIONS),
        lambda: locked_tables(PREPARED, " Start again then."),
        lambda: locked_tables([*PREPARED, *SESSIONS]),
        lambda: repeated_failure("transient", HINT),
        lambda: repeated_failure("abandoned", HINT),
        lambda: str(LeaderFailed(wrap("The leader failed: ", HINT))),
        lambda: stored_hint(str(HINT)),
    ],
)
def test_hints(hint: Callable[[], str]) -> None:
    """A hint with several commands has a line for each, below its first line."""
    first, *commands = hint().split("\n")
    assert len(commands) >= 2
    assert not _COMMAND.search(first)
    for line in commands:
        assert line.startswith("    ")
        assert len(re.findall(r"manage\.py|SELECT|ROLLBACK", line)) == 1


def test_a_single_command() -> None:
    """A single command ends the line of its hint, before a further sentence."""
    assert with_commands("Run:", ["a"], " Then go on.") == "Run: a Then go on."
    assert with_commands("Run:", ["a", "a"]) == "Run: a"
    text = locked_tables(SESSIONS[:1], " Start again then.")
    assert text.endswith(
        "To end that: SELECT pg_terminate_backend(0); Start again then."
    )


def test_lines_of_a_hint() -> None:
    """Only the line feeds before commands stay line feeds; texts inside are printable."""
    hint = Hint("a\nb", "c\n    d")
    assert hint == "a\\nb\n    c\\n    d"
    assert printable_hint(hint) is hint
    assert printable_hint(str(hint)) == "a\\\\nb\\n    c\\\\n    d".replace(
        "\\\\", "\\"
    )
    assert wrap("x ", hint, " y") == "x a\\nb y\n    c\\n    d"
    assert wrap("x ", "z", " y") == "x z y"


def test_a_hint_in_an_error(capsys) -> None:
    """An error keeps its hint, also when it is pickled, and its single line has no command."""
    error = LeaderFailed(HINT)
    assert str(error) == str(HINT)
    assert isinstance(str(error), Hint)
    assert message_of(error) == HINT
    assert one_line(error) == first_line(HINT) == "Do this:"
    assert message_of(ValueError("a\nb")) == "a b"
    assert message_of(ValueError()) == one_line(ValueError()) == ""
    copied = pickle.loads(pickle.dumps(HINT))
    assert (copied, copied.commands) == (HINT, HINT.commands)


def test_a_stored_hint() -> None:
    """A hint that was read from the tables keeps its lines, each shortened."""
    stored = stored_hint(str(HINT))
    assert isinstance(stored, Hint)
    assert stored.commands == HINT.commands
    assert stored_hint("a\n  b") == "a b"
    assert len(stored_hint("x" * 10**6 + "\n    y").splitlines()[0]) <= 10_000


def test_where_hints_are_shown(capsys) -> None:
    """A reported hint has the prefix on each line, and the history has its first line."""
    import sys

    from django.core.management.base import OutputWrapper

    report_to(OutputWrapper(sys.stdout))(HINT)
    assert capsys.readouterr().out.splitlines() == [
        "[safe_init] Do this:",
        "[safe_init]     python manage.py one",
        "[safe_init]     SELECT pg_terminate_backend(1);",
    ]
    assert text_table([ended_run(9, "failed", error=HINT)]).endswith("  Do this:")
    assert run_row(error=HINT).as_json()["error"] == str(HINT)


def test_the_third_failure_keeps_the_commands() -> None:
    """The sentences before and after stay on the first line."""
    first, *commands = repeated_failure("abandoned", HINT).split("\n")
    assert first.startswith(
        f"{MAX_TRANSIENT_FAILURES} times in a row, the last time: Do"
    )
    assert first.endswith("startupProbe in Kubernetes.")
    assert [line.strip() for line in commands] == list(HINT.commands)


def test_blockers() -> None:
    """The text about a blocker has no command; the hint around it adds one for each."""
    blocker = Blocker(-1, "report", "", "prepared", 9.0, "PREPARE TRANSACTION 'x'")
    assert not _COMMAND.search(str(blocker))


def test_a_logged_hint(caplog) -> None:
    """A hint, an error and a finding are logged with a line for each command."""
    logger = logging.getLogger("django_safe_init")
    make_log_printable()
    for argument in (HINT, LeaderFailed(HINT), FINDING, "a\nb"):
        logger.warning("%s", argument)
    lines = [message.splitlines() for message in caplog.messages]
    assert lines[0] == lines[1] == str(HINT).splitlines()
    assert lines[2][1:] == [f"    {command}" for command in FINDING.repair]
    assert lines[3] == [r"a\nb"]
