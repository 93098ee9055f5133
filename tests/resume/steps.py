"""The parts of a plan: operations, groups of them, and the file that Django reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

HEADER = '''"""A generated migration."""

import helpers
from django.contrib.postgres import operations as postgres
from django.contrib.postgres.indexes import BrinIndex, HashIndex
from django.db import migrations, models
from django.db.models.functions import Lower, Upper

'''


@dataclass(frozen=True)
class Step:
    """One operation: its kind, its source, and functions that it names.

    `exact` are the texts of the rows that it logs, once for each time that it runs forwards;
    backwards it logs the same with a minus.
    """

    kind: str
    source: str
    functions: str = ""
    exact: tuple[str, ...] = ()
    #: The journal has entries of its statements.
    is_list: bool = False


@dataclass(frozen=True)
class Group:
    """A `SeparateDatabaseAndState` with these operations on both sides."""

    items: tuple[Item, ...]
    kind: str = "SeparateDatabaseAndState"


Item = Step | Group


@dataclass(frozen=True)
class Kill:
    """Two numbers that choose the kind of point and its occurrence."""

    kind: int
    occurrence: int


#: The ways through the migration: where the killed attempts go, and where the last one ends.
SCENARIOS = ("forwards", "backwards", "turned back", "turned forwards")


@dataclass(frozen=True)
class Plan:
    """A migration, and how its application is interrupted."""

    items: tuple[Item, ...]
    scenario: str = "forwards"
    kills: tuple[Kill, ...] = field(default=())

    @property
    def steps(self) -> list[Step]:
        """The operations in the order in which the journal numbers them."""
        return list(flat(self.items))

    def source(self) -> str:
        """Return the migration's file."""
        return render(self.items)


def flat(items: Sequence[Item]) -> Iterator[Step]:
    """Yield the operations, also from inside groups."""
    for item in items:
        if isinstance(item, Step):
            yield item
        else:
            yield from flat(item.items)


def render(items: Sequence[Item], after: str = "0001_initial") -> str:
    """Return the file of a non-atomic migration with these operations."""
    functions = "".join(step.functions for step in flat(items))
    operations = "".join(f"        {_call(item)},\n" for item in items)
    return (
        f"{HEADER}{functions}\nclass Migration(migrations.Migration):\n"
        f"    atomic = False\n    dependencies = [('shop', '{after}')]\n"
        f"    operations = [\n{operations}    ]\n"
    )


def _call(item: Item) -> str:
    if isinstance(item, Step):
        return item.source
    database = ", ".join(map(_call, item.items))
    state = ", ".join(step.source for step in flat(item.items) if _has_state(step))
    return (
        f"migrations.SeparateDatabaseAndState(database_operations=[{database}],"
        f" state_operations=[{state}])"
    )


def _has_state(step: Step) -> bool:
    return not step.source.startswith(("migrations.Run", "helpers."))
