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
        name: {_module_of(each, modules) for each in _imported(path, name)}
        - {name, None}
        for name, path in sorted(modules.items())
    }


def importers_of(package: Path, library: str) -> set[str]:
    """Return the modules that import the library or a part of it."""
    return {
        name
        for name, path in module_names(package).items()
        if any(f"{each}.".startswith(f"{library}.") for each in _imported(path, name))
    }


def _module_of(imported: str, modules: Iterable[str]) -> str | None:
    """Return the imported module, or the module that defines the imported name."""
    candidates = (imported, imported.rpartition(".")[0])
    return next((each for each in candidates if each in modules), None)


def _imported(path: Path, name: str) -> Iterator[str]:
    """Yield the dotted names a module imports, of modules and of what they define."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = _absolute(node, package)
            yield from (f"{source}.{each.name}" for each in node.names)


def _absolute(node: ast.ImportFrom, package: str) -> str:
    """Return the dotted name after `from`, without leading dots."""
    if not node.level:
        return node.module or ""
    parents = package.split(".")
    parents = parents[: len(parents) - node.level + 1]
    return ".".join([*parents, node.module] if node.module else parents)


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
    """Return the package that contains a module."""
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
    lines = [
        f"entries at the root  {len(entries(package))}",
        f"modules              {len(graph)}",
        f"lines                {sum(_lines(path) for path in package.rglob('*.py'))}",
        f"edges                {sum(map(len, graph.values()))}",
        f"levels               {levels(graph)}",
        f"two-way folder pairs {len(two_way_rooms(graph))}",
        f"cycles               {len(groups)} ({sum(map(len, groups))} modules)",
        *("  " + ", ".join(group) for group in groups),
    ]
    return "\n".join(lines)


def entries(package: Path) -> list[str]:
    """Return the names of the files and folders directly in the package."""
    names = (each.name for each in package.iterdir())
    return sorted(name for name in names if name != "__pycache__")


def _lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def main() -> None:
    """Print the figures of the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "folder", nargs="?", type=Path, default=ROOT / "django_safe_init"
    )
    print(report(parser.parse_args().folder.resolve()))


if __name__ == "__main__":
    main()
