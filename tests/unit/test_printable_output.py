"""Whatever the package prints passes a function that makes it printable."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from django.core.management.base import BaseCommand

import django_safe_init
from django_safe_init.management.base import PrintableCommand
from django_safe_init.management.commands import migrate

PACKAGE = Path(django_safe_init.__file__).parent
#: Calls that write to a terminal or a log.
_WRITES = re.compile(
    r"print|input|Text|json\.dumps|warnings\.warn|traceback\.\w+|os\.write"
    r"|(sys|self|stream|super\(\)|\w+)?\.?_?(stdout|stderr|stream|console)\.(write|print)"
    r"|stream\.write|(\w+\.)*console\.print"
)


def calls(source: str) -> Iterator[str]:
    """Yield the functions that the source calls."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)


def test_ways_out() -> None:
    """Only these modules write: their streams or their functions make text printable."""
    found = {
        (str(path.relative_to(PACKAGE)), call)
        for path in PACKAGE.rglob("*.py")
        for call in calls(path.read_text())
        if _WRITES.fullmatch(call)
        and (call != "json.dumps" or path.is_relative_to(PACKAGE / "management"))
    }
    commands = {"management/base.py", "management/entrypoint.py"} | {
        str(path.relative_to(PACKAGE))
        for path in (PACKAGE / "management/commands").glob("*.py")
    }
    through_commands = {
        (module, call)
        for module, call in found
        if module in commands and call in ("self.stdout.write", "self.stderr.write")
    }
    assert found - through_commands == {
        ("core/text.py", "traceback.format_exception"),  # `printable_traceback`
        ("serving/background/child_process.py", "sys.stdout.write"),  # a fixed object
        ("management/checks.py", "json.dumps"),  # aliases, with escapes
        ("management/commands/safe_init_status.py", "self.console.print"),  # the table
        ("management/console.py", "input"),  # without a prompt
        ("management/console.py", "Text"),  # cells that `row` made printable
        ("management/console.py", "json.dumps"),  # `json_line`
        ("management/console.py", "os.write"),  # one JSON object
        ("management/console.py", "stream.write"),  # `report_to`
        ("management/console.py", "sys.stderr.write"),  # marked lines
        ("management/exec.py", "sys.stderr.write"),  # its name is made printable
        ("management/live_view.py", "Text"),  # `_text`, and numbers
        ("management/parallel.py", "self._stream.write"),  # the output of `migrate`
        ("management/watch.py", "self.stream.write"),  # a line that is made printable
    }


def test_commands() -> None:
    """Every command writes through printable streams; `migrate` keeps Django's colors."""
    for path in (PACKAGE / "management/commands").glob("[!_]*.py"):
        module = import_module(f"django_safe_init.management.commands.{path.stem}")
        if module is not migrate:
            assert issubclass(module.Command, PrintableCommand)
    assert "printable_uncaught_errors" in inspect.getsource(
        migrate.Command.run_from_argv
    )
    assert issubclass(migrate.Command, BaseCommand)


def test_texts_of_the_live_view() -> None:
    """Each text of the live view that is not fixed is made by `_text`."""
    tree = ast.parse((PACKAGE / "management/live_view.py").read_text())
    plain = [
        (ast.unparse(node))
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Text"
    ]
    assert sorted(plain) == [
        "Text(', '.join(filter(None, hidden)), 'dim')",  # numbers
        "Text(printable_hint(text), style)",
    ]
