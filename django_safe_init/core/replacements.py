"""Find the squashed migrations of this build, and tell which ones Django has to apply.

`replaces` is an attribute of a class, so only an import tells it. Most files show in their text
that they replace nothing, and are not imported.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from importlib import import_module
from typing import Any

from django.db.migrations.loader import MigrationLoader

from django_safe_init.core.text import one_line

logger = logging.getLogger("django_safe_init")

#: The class of nearly every migration: it inherits no `replaces`.
_USUAL_CLASS = b"class Migration(migrations.Migration)"


def replaced_by(
    label: str, module: str, path: str, names: Iterable[str]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each squashed migration of a folder, with the full names that it replaces.

    `module` is the package of the migrations `names`. A migration that cannot be imported
    replaces nothing: Django's `migrate` reports its error.
    """
    for name in names:
        if not _may_replace(os.path.join(path, f"{name}.py")):
            continue
        try:
            migration = import_module(f"{module}.{name}").Migration
            replaced = tuple(f"{app}.{each}" for app, each in migration.replaces)
        except Exception as exc:  # noqa: BLE001  (a migration is code of the project)
            logger.debug(
                "The migration %s.%s cannot be imported: %s", label, name, one_line(exc)
            )
            continue
        if replaced:
            yield f"{label}.{name}", replaced


def _may_replace(file: str) -> bool:
    try:
        with open(file, "rb") as source:
            text = source.read()
    except OSError:  # a compiled file, or an archive
        return True
    return b"replaces" in text or _USUAL_CLASS not in text


def resolve(replaces: Mapping[str, tuple[str, ...]]) -> dict[str, frozenset[str]]:
    """Return the migrations that must be recorded for each squashed one, as Django resolves them.

    A squash that replaces another squash needs the migrations that the other one replaces. A
    circle, which Django refuses, is cut.
    """
    return {name: frozenset(_resolve(name, replaces, ())) for name in replaces}


def _resolve(
    name: str, replaces: Mapping[str, tuple[str, ...]], outer: tuple[str, ...]
) -> Iterator[str]:
    if name not in replaces or name in outer:
        yield name
        return
    for each in replaces[name]:
        yield from _resolve(each, replaces, (*outer, name))


def pending(
    squashed: Mapping[str, frozenset[str]],
    unrecorded: AbstractSet[str],
    files: AbstractSet[str],
) -> tuple[str, ...]:
    """Return the migrations with which Django makes up for the unrecorded ones.

    A squashed migration stands for those it replaces if none is recorded. It also stands for
    those whose `files` are deleted, although Django then has no way to apply them.
    """
    left, found = set(unrecorded), set[str]()
    outer_first = sorted(squashed, key=lambda name: (-len(squashed[name]), name))
    for name in outer_first:
        if squashed[name] <= left:
            found.add(name)
            left -= squashed[name]
    for name in reversed(outer_first):
        deleted = squashed[name] & left - files
        if deleted:
            found.add(name)
            left -= deleted
    return tuple(sorted(found | left))


def plan(recorded: Collection[str]) -> tuple[str, ...] | None:
    """Return the plan of Django's `migrate` for these records, sorted; None if it has none."""
    try:
        loader = RecordedLoader(recorded)
    except Exception as exc:  # noqa: BLE001  (a migration is code of the project)
        logger.debug("Django refuses the migrations: %s", one_line(exc))
        return None
    applied, graph = loader.applied_migrations, loader.graph
    if not loader.is_consistent:
        return None
    targets = [each for each in graph.leaf_nodes() if each not in applied]
    nodes = {node for each in targets for node in graph.forwards_plan(each)}
    return tuple(sorted(".".join(node) for node in nodes if node not in applied))


class RecordedLoader(MigrationLoader):
    """Django's loader, for records that were read before."""

    def __init__(self, recorded: Iterable[str]) -> None:
        self._recorded = [tuple(name.split(".", 1)) for name in recorded]
        super().__init__(None)

    @property
    def is_consistent(self) -> bool:
        """False if Django refuses the records: a migration before one that it depends on."""
        done = {*self._recorded, *self.applied_migrations}
        nodes = (self.graph.node_map.get(key) for key in self._recorded)
        return all(
            parent.key in done for node in nodes if node for parent in node.parents
        )

    @property
    def applied_migrations(self) -> Any:
        """The records, which Django's loader changes by the squashed migrations."""
        return self._applied

    @applied_migrations.setter
    def applied_migrations(self, value: Any) -> None:
        self._applied = value if value is None else dict.fromkeys(self._recorded)
