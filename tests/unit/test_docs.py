"""The documentation and the code say the same."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import json
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from django.core.management import load_command_class
from django.core.management.base import BaseCommand
from django.core.management.commands import migrate as django_migrate
from django.dispatch import Signal

import django_safe_init
from django_safe_init import exceptions, signals
from django_safe_init.conf import DEFAULT_PATHS, MODES, SERVE_MODES, Settings
from django_safe_init.core import records
from django_safe_init.core.findings import DEFAULT_LEVELS, LEVELS, Finding, FindingKind
from django_safe_init.core.records import Blocker
from django_safe_init.core.states import TRANSITIONS, State
from django_safe_init.exceptions import SafeInitError
from django_safe_init.initialization.types import Outcome
from django_safe_init.pools import SlowPool
from django_safe_init.serving.http.payloads import PUBLIC_STATES
from django_safe_init.status import Status, StatusDetail
from django_safe_init.validation import ValidationReport
from tests.support import schema_of
from tests.unit.snapshots import run_row

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PACKAGE = Path(django_safe_init.__file__).parent
PAGES = [*ROOT.glob("*.md"), *DOCS.rglob("*.md")]
COMMANDS = {
    "demo": "python3 -m venv .venv && .venv/bin/pip install -e '.[demo]'"
    " && .venv/bin/python example_project/manage.py demo",
    "test": "python3 -m venv .venv && .venv/bin/pip install -e '.[test]'"
    " && .venv/bin/python -m pytest",
}


def rows(page: str, first_header: str, occurrence: int = 0) -> list[list[str]]:
    """The cells of a table of a page, found by its first header, without the header."""
    lines = (ROOT / page).read_text().splitlines()
    starts = [
        i for i, line in enumerate(lines) if line.startswith(f"| {first_header} |")
    ]
    found = []
    for line in lines[starts[occurrence] + 2 :]:
        if not line.startswith("|"):
            break
        cells = re.split(r"(?<!\\)\|", line.strip("|"))
        found.append([cell.strip().replace("\\|", "|") for cell in cells])
    return found


def codes(cell: str) -> list[str]:
    """Return the texts in backquotes."""
    return re.findall(r"`([^`]+)`", cell)


def own_errors(
    base: type[SafeInitError] = SafeInitError,
) -> Iterator[type[SafeInitError]]:
    yield base
    for error in base.__subclasses__():
        yield from own_errors(error)


# Settings


def default_as_written(field: dataclasses.Field[object]) -> object:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return list(field.default) if isinstance(field.default, tuple) else field.default


def test_settings_and_defaults() -> None:
    """docs/reference/settings.md lists every key with its default, and no other key."""
    written = {
        codes(row[0])[0]: codes(row[1])[0]
        for row in rows("docs/reference/settings.md", "key")
    }
    actual = {
        field.name.upper(): json.dumps(default_as_written(field))
        for field in dataclasses.fields(Settings)
    }
    python = {"null": "None", "false": "False", "true": "True"}
    assert {key: python.get(text, text) for key, text in actual.items()} == written


def test_slow_pools() -> None:
    """docs/how-to/analytics-pool.md lists what a slow pool allows, with the defaults."""
    table = rows("docs/how-to/analytics-pool.md", "`SlowPool(…)`")
    written = {codes(row[0])[0]: codes(row[1])[0] for row in table}
    assert written == {
        field.name: str(getattr(SlowPool(), field.name))
        for field in dataclasses.fields(SlowPool)
    }


def test_modes() -> None:
    """docs/reference/settings.md explains every mode."""
    text = (DOCS / "reference/settings.md").read_text()
    assert set(re.findall(r'^- `"(\w+)"`:', text, re.MULTILINE)) >= set(MODES)


def test_values_of_serve() -> None:
    """docs/reference/settings.md explains every value of SERVE."""
    text = (DOCS / "reference/settings.md").read_text()
    assert set(re.findall(r'^- `"(\w+)"`:', text, re.MULTILINE)) >= set(SERVE_MODES)


# URLs


def test_paths() -> None:
    """docs/reference/urls.md lists the paths and their keys."""
    table = rows("docs/reference/urls.md", "path")
    written = {codes(row[1])[0]: codes(row[0])[0] for row in table}
    assert written == DEFAULT_PATHS


def test_public_states() -> None:
    """docs/reference/urls.md says which state the public is told for which."""
    written = {
        State(state): codes(row[0])[0]
        for row in rows("docs/reference/urls.md", "`state`")
        for state in codes(row[1])
    }
    assert written == PUBLIC_STATES


# States, outcomes


def test_states_and_transitions() -> None:
    """docs/reference/states.md shows the table of transitions."""
    written = {
        codes(row[0])[0]: set(codes(row[2]))
        for row in rows("docs/reference/states.md", "state")
    }
    assert written == {
        state.value: {next_.value for next_ in TRANSITIONS[state]} for state in State
    }


def test_drawing_of_the_states() -> None:
    """The drawing has one box for each state."""
    drawn = (DOCS / "diagrams/states.svg").read_text()
    boxes = re.findall(r"<text x=[^>]*>(.*?)</text>", drawn)
    assert sorted(boxes) == sorted(state.value for state in State)


def test_outcomes() -> None:
    """docs/reference/states.md lists every outcome of a run."""
    written = [codes(row[0])[0] for row in rows("docs/reference/states.md", "outcome")]
    assert sorted(written) == sorted(records.OUTCOMES)


def test_transient_outcomes() -> None:
    """docs/reference/states.md says which outcomes count towards giving up."""
    text = (DOCS / "reference/states.md").read_text()
    sentence = re.search(r"^.* are nobody's fault once", text, re.MULTILINE)
    assert sentence is not None
    assert set(codes(sentence[0])) == set(records.TRANSIENT_OUTCOMES)


# Errors and exit codes


def test_errors() -> None:
    """docs/reference/errors.md lists every error with its bases, exit code and result."""
    written = {
        codes(row[0])[0]: (codes(row[1]), int(row[2]), codes(row[3])[0])
        for row in rows("docs/reference/errors.md", "error")
    }
    actual = {
        error.__name__: (
            [base.__name__ for base in error.__bases__],
            error.exit_code,
            error.result,
        )
        for error in own_errors()
        if error.__module__ == exceptions.__name__
    }
    assert actual == written


def test_exit_codes_of_safe_migrate() -> None:
    """docs/reference/commands.md lists every exit code of safe_migrate."""
    written = [row[0] for row in rows("docs/reference/commands.md", "exit code")]
    assert written == [
        "0",
        *sorted({str(error.exit_code) for error in own_errors()}),
        "128 + n",
    ]


def test_results_in_json() -> None:
    """docs/reference/commands.md lists every `result`."""
    [row] = [
        row for row in rows("docs/reference/commands.md", "key") if row[0] == "`result`"
    ]
    results = {error.result for error in own_errors()}
    assert set(codes(row[1])) == results | {"ready", "partial", "interrupted"}


def test_keys_of_safe_migrate_json() -> None:
    """docs/reference/commands.md lists the keys of `safe_migrate --json`, and shows an example."""
    actual = list(Outcome("ready", "none", "default").as_json())
    example = re.search(
        r"```json\n(.*?)```", (DOCS / "reference/commands.md").read_text(), re.DOTALL
    )
    assert example is not None
    assert actual == [
        codes(row[0])[0] for row in rows("docs/reference/commands.md", "key")
    ]
    assert actual == list(json.loads(example[1]))


def test_keys_of_safe_init_status_json() -> None:
    """docs/reference/commands.md lists the keys of `safe_init_status --json`."""
    table = rows("docs/reference/commands.md", "key of the JSON object")
    status = StatusDetail(Status("default", State.READY, 100, ""))
    actual = [*status.as_json(), "history"]
    assert actual == [codes(row[0])[0] for row in table]


# Options


class _Django(BaseCommand):
    """For the options that every command has."""


def options(command: BaseCommand) -> set[str]:
    parser: argparse.ArgumentParser = command.create_parser("manage.py", "x")
    return {
        max(action.option_strings, key=len)
        for action in parser._actions
        if action.option_strings
    }


@pytest.mark.parametrize(
    ("name", "occurrence"),
    [
        ("safe_migrate", 0),
        ("safe_init_status", 1),
        ("safe_init_unlock", 2),
        ("safe_init_validate", 3),
    ],
)
def test_options(name: str, occurrence: int) -> None:
    """docs/reference/commands.md lists every option that is not one of Django's."""
    command = load_command_class("django_safe_init", name)
    table = rows("docs/reference/commands.md", "option", occurrence)
    written = {codes(row[0])[0].split()[0] for row in table}
    djangos = options(_Django()) | options(django_migrate.Command())
    assert options(command) - djangos <= written <= options(command)


# System checks


def test_check_ids() -> None:
    """docs/reference/checks.md lists every check."""
    ids = re.compile(r"safe_init\.[EW]\d{3}")
    written = [codes(row[0])[0] for row in rows("docs/reference/checks.md", "check")]
    in_code = set(ids.findall((PACKAGE / "management/checks.py").read_text()))
    assert sorted(written) == sorted(in_code)


# Log messages, signals, the Python API

_FORMAT = re.compile(r"%(\.\d+)?[srdf]")


def logger_calls() -> Iterator[tuple[str, str]]:
    """`(level, message)` of every call of the logger in the package."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "logger"
            ):
                level = {"exception": "ERROR"}.get(node.func.attr, node.func.attr)
                message = ast.literal_eval(node.args[0])
                yield level.upper(), _FORMAT.sub("…", message)


def test_log_messages() -> None:
    """docs/reference/logging.md lists every message with its level, and no other."""
    table = rows("docs/reference/logging.md", "level")
    written = {(codes(row[0])[0], codes(row[1])[0]) for row in table}
    assert written == set(logger_calls())


def test_one_logger() -> None:
    """All of the package logs to the one logger that is documented, and steps below it."""
    names = set()
    for path in PACKAGE.rglob("*.py"):
        names |= set(re.findall(r"getLogger\((.*?)\)", path.read_text()))
    assert names == {
        '"django_safe_init"',
        'f"django_safe_init.steps.{step.label}"',
    }


def own_signals() -> list[str]:
    return [name for name, value in vars(signals).items() if isinstance(value, Signal)]


def test_signals() -> None:
    """docs/reference/signals.md lists every signal, and each can be imported from the root."""
    written = [codes(row[0])[0] for row in rows("docs/reference/signals.md", "signal")]
    assert sorted(written) == sorted(own_signals())
    for name in written:
        assert getattr(django_safe_init, name) is getattr(signals, name)


def test_python_api() -> None:
    """docs/reference/python.md describes each public name but errors and signals."""
    text = (DOCS / "reference/python.md").read_text()
    described = set(
        re.findall(r"auto\w+:: django_safe_init\.(\w+)$", text, re.MULTILINE)
    )
    elsewhere = {error.__name__ for error in own_errors()} | set(own_signals())
    assert described == set(django_safe_init.__all__) - elsewhere - {"__version__"}


def test_import_paths() -> None:
    """docs/reference/python.md lists each module from which the documentation imports."""
    table = rows("docs/reference/python.md", "module")
    listed = [codes(row[0])[0] for row in table]
    assert listed == sorted(listed)
    for module in listed:
        assert find_spec(module), module
    text = "".join(
        page.read_text() for page in [ROOT / "README.md", *DOCS.rglob("*.md")]
    )
    named = set(re.findall(r"django_safe_init(?:\.[a-z_]+)*(?=\.[A-Za-z]|\b)", text))
    modules = {name for name in named if is_module(name)}
    rooms = {name.rpartition(".")[0] for name in listed}
    assert modules - set(listed) <= rooms


def is_module(name: str) -> bool:
    path = PACKAGE.parent / name.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file()


# The ES module


def test_options_of_the_module() -> None:
    """docs/reference/javascript.md and the types list the options with their defaults."""
    folder = PACKAGE / "static/django_safe_init"
    defaults = re.search(
        r"const DEFAULTS = \{(.*?)\}", (folder / "status.js").read_text(), re.DOTALL
    )
    assert defaults is not None
    actual = re.findall(r"(\w+): (\d+)", defaults[1])
    table = rows("docs/reference/javascript.md", "option of `watchStatus`")
    typed = r"Default: (\d+)\. \*/\s+readonly (\w+)"
    types = re.findall(typed, (folder / "status.d.ts").read_text())
    assert [(codes(row[0])[0], codes(row[1])[0]) for row in table] == actual
    assert [(name, default) for default, name in types] == actual


def test_states_of_the_module() -> None:
    """docs/reference/javascript.md and the types list the states of the module."""
    folder = PACKAGE / "static/django_safe_init"
    constant = re.compile(r'^  (\w+): "(\w+)"[,;]$', re.MULTILINE)
    actual = constant.findall((folder / "status.js").read_text())
    table = rows("docs/reference/javascript.md", "constant")
    written = [(codes(row[0])[0], codes(row[1])[0]) for row in table]
    assert written == [(f"State.{name}", value) for name, value in actual]
    assert constant.findall((folder / "status.d.ts").read_text()) == actual


# Validation


def test_kinds_of_findings() -> None:
    """docs/reference/validation.md lists every kind with its level."""
    written = {
        codes(row[0])[0]: codes(row[1])[0]
        for row in rows("docs/reference/validation.md", "kind")
    }
    assert list(written) == [kind.value for kind in FindingKind]
    assert written == {FindingKind.UNAPPLIED_MIGRATION.value: "error", **DEFAULT_LEVELS}


def test_levels() -> None:
    """docs/reference/settings.md explains every level of VALIDATE."""
    text = (DOCS / "reference/settings.md").read_text()
    assert set(re.findall(r'^- `"(\w+)"`:', text, re.MULTILINE)) >= set(LEVELS)


def test_keys_of_safe_init_validate_json() -> None:
    """docs/reference/commands.md and the schema have the keys of `safe_init_validate --json`."""
    defs = schema_of("safe_init_validate").schema["$defs"]
    finding = Finding(
        FindingKind.MISSING_TABLE, "error", "shop_product", None, "It is missing."
    )
    for name, header, value in (
        ("validation", "key of a database", ValidationReport("default", 1, (finding,))),
        ("finding", "key of a finding", finding),
    ):
        keys = list(value.as_json())
        table = rows("docs/reference/commands.md", header)
        assert keys == [codes(row[0])[0] for row in table]
        assert keys == list(defs[name]["properties"]) == defs[name]["required"]
    known = defs["finding"]["properties"]["kind"]["enum"]
    assert known == [kind.value for kind in FindingKind]


# JSON schemas


def test_schema_of_safe_migrate() -> None:
    """The schema has the keys and results of the code, and requires the keys of every version."""
    defs = schema_of("safe_migrate").schema["$defs"]
    keys = list(Outcome("ready", "none", "default").as_json())
    assert list(defs["outcome"]["properties"]) == keys
    assert [*defs["outcome"]["required"], "schemas_migrated"] == keys
    results = {error.result for error in own_errors()}
    assert set(defs["result"]["enum"]) == results | {"ready", "partial", "interrupted"}


def test_schema_of_safe_init_status() -> None:
    """The schema has the keys, states and outcomes of the code."""
    defs = schema_of("safe_init_status").schema["$defs"]
    status = StatusDetail(Status("default", State.READY, 100, ""))
    assert list(defs["status"]["properties"]) == [*status.as_json(), "history"]
    blocker = list(Blocker.__dataclass_fields__)
    assert defs["blocker"]["required"] == blocker
    run = run_row(1)
    assert list(defs["run"]["properties"]) == list(run.as_json())
    assert defs["state"]["enum"] == [state.value for state in State]
    known = defs["run"]["properties"]["outcome"]["enum"]
    assert known == [*records.OUTCOMES, None]
    for name in ("status", "run", "blocker"):
        assert list(defs[name]["properties"]) == defs[name]["required"]


# CONTRIBUTING.md

CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()


def test_picture_of_the_layers() -> None:
    """The picture shows the layers that import-linter enforces, with each module of the root."""
    picture = re.search(r"```text\n(.*?)```", CONTRIBUTING, re.DOTALL)
    contract = re.search(
        r"^layers = (\[.*?^\])", (ROOT / "pyproject.toml").read_text(), re.M | re.S
    )
    assert picture is not None
    assert contract is not None
    drawn = [
        [name.strip("/").replace("/", ".") for name in re.split(r" {2,}", line)[1:]]
        for line in picture[1].splitlines()
    ]
    assert drawn == [
        re.split(" [:|] ", layer) for layer in ast.literal_eval(contract[1])
    ]
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert modules <= {name for layer in drawn for name in layer}


def test_rooms() -> None:
    """CONTRIBUTING.md has the rule of each package, or says what the package contains."""
    rooms = {path.parent.relative_to(PACKAGE) for path in PACKAGE.rglob("__init__.py")}
    rooms.remove(Path())
    assert [room for room in rooms if f"`{room}/`" not in CONTRIBUTING] == []


def test_files_in_contributing() -> None:
    """Each file and folder that CONTRIBUTING.md names exists."""
    names = re.findall(r"`([\w./]+(?:/|\.(?:py|md|json|toml|ini)))`", CONTRIBUTING)
    assert len(names) > 40
    for name in names:
        assert (ROOT / name).exists() or (PACKAGE / name).exists(), name


def test_functions_in_contributing() -> None:
    """Each function that an answer names after a file is in that file."""
    answers = re.findall(
        r"`([\w/]+\.py)`[^`()\n]*\(`([\w.]+)`(?:, `(\w+)`)?\)", CONTRIBUTING
    )
    assert len(answers) > 5
    for file, *names in answers:
        text = (PACKAGE / file).read_text()
        for name in filter(None, names):
            assert re.search(
                rf"(def|class) {name.split('.')[-1]}\b|^{name}\b", text, re.M
            ), name


# The tests


def test_tests_of_the_guarantees() -> None:
    """Every guarantee names the file of the repository that shows it."""
    page = "docs/explanation/guarantees.md"
    headers = [
        line for line in (ROOT / page).read_text().splitlines() if "shown by" in line
    ]
    for occurrence in range(len(headers)):
        for row in rows(page, "situation", occurrence):
            assert (ROOT / codes(row[2])[0]).is_file(), row


# README


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_of_the_readme(name: str) -> None:
    """The two commands stand in the README on a line of their own; .ci/run takes one from it."""
    assert COMMANDS[name] in (ROOT / "README.md").read_text().splitlines()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links(page: Path) -> None:
    """Every link inside the repository leads somewhere."""
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    for target in targets:
        if "://" not in target:
            file, _, heading = target.partition("#")
            linked = (page.parent / file).resolve() if file else page
            assert linked.is_file(), target
            assert not heading or heading in anchors(linked), target


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as they are made of Markdown commonly."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", text).lower().replace(" ", "-") for text in headings}


def test_version_has_a_changelog() -> None:
    """CHANGELOG.md has an entry for this version, or for what is not released yet."""
    headings = re.findall(
        r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    )
    assert {django_safe_init.__version__, "Unreleased"} & set(headings)
