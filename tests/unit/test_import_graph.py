"""Imports go one way, and few modules import a driver."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import django_safe_init
from tests import import_graph

PACKAGE = Path(django_safe_init.__file__).parent
DRIVERS = ("psycopg", "psycopg_pool")
#: The rooms, and the module, that may import a driver.
WITH_DRIVER = (
    "django_safe_init.backends.postgresql.",
    "django_safe_init.pools.postgresql",
    "django_safe_init.privileged.",
)


# The package


def test_no_cycle() -> None:
    """No chain of imports leads back, also not by one in a function or for types."""
    assert import_graph.cycles(import_graph.read_graph(PACKAGE)) == []


def test_the_root_is_for_users() -> None:
    """Modules of the package import no public name from its root."""
    graph = import_graph.read_graph(PACKAGE)
    assert [name for name in graph if "django_safe_init" in graph[name]] == []


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_driver_has_its_rooms(driver: str) -> None:
    """The driver of PostgreSQL is imported only where the engine is PostgreSQL."""
    importers = import_graph.importers_of(PACKAGE, driver)
    assert {name for name in importers if not f"{name}.".startswith(WITH_DRIVER)} == (
        set()
    )


def test_requests_open_no_connection() -> None:
    """`serving.http` reads the settings of `connections`, and opens none of them."""
    for path in (PACKAGE / "serving/http").rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        used = [
            node
            for node in nodes
            if isinstance(node, ast.Name) and node.id in {"connection", "connections"}
        ]
        settings = [
            node.value
            for node in nodes
            if isinstance(node, ast.Attribute) and node.attr == "settings"
        ]
        assert [node for node in used if node not in settings] == [], path


def test_few_entries_at_the_root() -> None:
    """The package root can be read at one glance."""
    assert len(import_graph.entries(PACKAGE)) <= 26


# The reader of the graph

FILES = {
    "__init__.py": "",
    "plain.py": "import json, made.values\nfrom made.values import ONE\n",
    "values.py": "ONE = 1\n",
    "lazy.py": "def load():\n    from made import plain\n    return plain\n",
    "typed.py": (
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n"
        "    import made.room.inner as inner\n"
    ),
    "public.py": "from made import __version__\n",
    "room/__init__.py": "from .inner import name\nfrom . import outer\n",
    "room/inner.py": "from ..typed import x\nimport json.decoder\n",
    "room/outer.py": "from .. import lazy\nfrom json import decoder, dumps\n",
}


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A small package with each form of an import."""
    for name, source in FILES.items():
        path = tmp_path / "made" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return tmp_path / "made"


def test_read_graph(made: Path) -> None:
    """Every form of an import is an edge: relative, in a function, for types."""
    assert import_graph.read_graph(made) == {
        "made": set(),
        "made.lazy": {"made.plain"},
        "made.plain": {"made.values"},
        "made.public": {"made"},
        "made.room": {"made.room.inner", "made.room.outer"},
        "made.room.inner": {"made.typed"},
        "made.room.outer": {"made.lazy"},
        "made.typed": {"made.room.inner"},
        "made.values": set(),
    }


def test_importers_of(made: Path) -> None:
    """A library is found by its name and by the name of a part, not by a longer name."""
    find = import_graph.importers_of
    assert find(made, "json") == {"made.plain", "made.room.inner", "made.room.outer"}
    assert find(made, "json.decoder") == {"made.room.inner", "made.room.outer"}
    assert find(made, "js") == set()


def test_cycles(made: Path) -> None:
    """A cycle is found also if one of its imports is only for types."""
    graph = import_graph.read_graph(made)
    assert import_graph.cycles(graph) == [["made.room.inner", "made.typed"]]


def test_cycles_that_share_no_module() -> None:
    """Each group is reported once, the largest first; a chain into a cycle is none."""
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"e"}, "e": {"f"}, "f": {"d"}}
    assert import_graph.cycles(graph) == [["d", "e", "f"], ["b", "c"]]


def test_levels() -> None:
    """The longest chain counts, and a cycle in it as one module."""
    assert import_graph.levels({}) == 0
    assert import_graph.levels({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == 3
    assert import_graph.levels({"a": {"b"}, "b": {"a", "c"}, "c": set()}) == 2


def test_two_way_rooms() -> None:
    """Two folders that import each other are a pair, also without a cycle of modules."""
    graph = {"p.a.x": {"p.b.y"}, "p.b.y": set(), "p.b.z": {"p.a.w"}, "p.a.w": set()}
    assert import_graph.cycles(graph) == []
    assert import_graph.two_way_rooms(graph) == [("p.a", "p.b")]


def test_report(made: Path) -> None:
    """The report has each figure on a line, and names the modules of a cycle."""
    (made / "__pycache__").mkdir()
    lines = import_graph.report(made).splitlines()
    figures = dict(line.rsplit(maxsplit=1) for line in lines[:6])
    assert figures == {
        "entries at the root": "7",
        "modules": "9",
        "lines": str(sum(text.count("\n") for text in FILES.values())),
        "edges": "8",
        "levels": "5",
        "two-way folder pairs": "1",
    }
    assert lines[6:] == [
        "cycles               1 (2 modules)",
        "  made.room.inner, made.typed",
    ]
