"""Measure the imports of a package: `python -m tests.import_graph [FOLDER]`.

Every import counts: at the top of a module, inside a function, and under `TYPE_CHECKING`.
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
Graph = dict[str, set[str]]


def module_names(package: Path) -> dict[str, Path]:
    """Map the dotted name of each module of the package to its file."""
    return {_dotted_name(path, package): path for path in package.rglob("*.py")}


def _dotted_name(path: Path, package: Path) -> str:
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def read_graph(package: Path) -> Graph:
    """Return the modules of the package, each with the modules it imports."""
    modules = module_names(package)
    return {
        name: set(_imported(path, name, modules)) - {name}
        for name, path in sorted(modules.items())
    }


def _imported(path: Path, name: str, modules: Iterable[str]) -> Iterator[str]:
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names if each.name in modules)
        elif isinstance(node, ast.ImportFrom):
            yield from _imported_from(node, package, modules)


def _imported_from(
    node: ast.ImportFrom, package: str, modules: Iterable[str]
) -> Iterator[str]:
    source = node.module or ""
    if node.level:
        parents = package.split(".")[: len(package.split(".")) - node.level + 1]
        source = ".".join([*parents, *([source] if source else [])])
    for each in node.names:
        submodule = f"{source}.{each.name}"
        if submodule in modules:
            yield submodule
        elif source in modules:
            yield source


def cycles(graph: Graph) -> list[list[str]]:
    """Return the groups of modules that import each other, largest first."""
    groups = [sorted(group) for group in _components(graph) if len(group) > 1]
    return sorted(groups, key=lambda group: (-len(group), group))


def _components(graph: Graph) -> list[list[str]]:
    """Return the strongly connected components (Tarjan), importers after the imported."""
    index: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = lowest[name] = len(index)
        stack.append(name)
        for target in sorted(graph[name]):
            if target not in index:
                visit(target)
            if target in stack:
                lowest[name] = min(lowest[name], lowest[target])
        if lowest[name] == index[name]:
            start = stack.index(name)
            found.append(stack[start:])
            del stack[start:]

    for name in sorted(graph):
        if name not in index:
            visit(name)
    return found


def levels(graph: Graph) -> int:
    """Return the number of modules on the longest chain of imports; a cycle counts as one."""
    height: dict[str, int] = {}
    for group in _components(graph):
        below = {height[t] for name in group for t in graph[name] if t not in group}
        height.update(dict.fromkeys(group, 1 + max(below, default=0)))
    return max(height.values(), default=0)


def room_of(name: str) -> str:
    """Return the folder of a module, by which the layers are defined."""
    return name.rpartition(".")[0]


def two_way_rooms(graph: Graph) -> list[tuple[str, str]]:
    """Return the pairs of folders that import each other."""
    edges = {
        (room_of(name), room_of(target)) for name in graph for target in graph[name]
    }
    return sorted(
        (one, other) for one, other in edges if one < other and (other, one) in edges
    )


def report(package: Path) -> str:
    """Return the figures of the package, one a line."""
    graph = read_graph(package)
    groups = cycles(graph)
    entries = [each for each in package.iterdir() if each.name != "__pycache__"]
    lines = [
        f"entries at the root  {len(entries)}",
        f"modules              {len(graph)}",
        f"lines                {sum(_lines(path) for path in package.rglob('*.py'))}",
        f"edges                {sum(map(len, graph.values()))}",
        f"levels               {levels(graph)}",
        f"two-way folder pairs {len(two_way_rooms(graph))}",
        f"cycles               {len(groups)} ({sum(map(len, groups))} modules)",
        *("  " + ", ".join(group) for group in groups),
    ]
    return "\n".join(lines)


def _lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "folder", nargs="?", type=Path, default=ROOT / "django_safe_init"
    )
    print(report(parser.parse_args().folder.resolve()))


if __name__ == "__main__":
    main()
