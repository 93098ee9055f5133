"""Work through a queryset in batches, each of which is committed together with its position."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

from django.core.exceptions import EmptyResultSet
from django.db import connections, models, transaction
from django.db.models.query import ModelIterable

from django_safe_init.core.progress import track


class Positions(Protocol):
    """The stored positions of the loops of one operation."""

    #: The database in which they are stored.
    alias: str

    def read(self, loop: str) -> str | None:
        """Return the last primary key of the loop, as text; None if it has to begin."""

    def write(self, loop: str, key: str) -> None:
        """Store the last primary key, in the transaction that is open."""


class _Loops:
    """The loops of one operation. Those with the same query count in the order they begin."""

    def __init__(self, positions: Positions) -> None:
        self.positions = positions
        self._begun: Counter[str] = Counter()

    def begin(self, query: str) -> str:
        """Return the identity of a loop that begins."""
        self._begun[query] += 1
        return f"{self._begun[query]} {query}"


_current: ContextVar[_Loops | None] = ContextVar("_current", default=None)


@contextmanager
def store_positions(positions: Positions) -> Iterator[None]:
    """Let `for_each_batch` store its positions in the block."""
    reset = _current.set(_Loops(positions))
    try:
        yield
    finally:
        _current.reset(reset)


def for_each_batch(
    queryset: models.QuerySet[Any],
    function: Callable[[list[Any]], object],
    batch: int = 1000,
    *,
    name: str = "",
) -> int:
    """Call the function with the objects of the queryset, a list of at most `batch` at a time.

    The objects come in the order of their primary keys. Each batch is one transaction. Inside a
    `RunPython` without a transaction, in a migration with `atomic = False`, the transaction also
    holds the position, so that the next start continues behind the last batch that was committed.
    A loop is known by the name of the operation and of `function` and by its query, which must be
    the same in the next start; or by `name`, for a query that each start computes anew. Elsewhere
    the loop begins with the first object. Returns the number of objects. The progress is shown as
    by `track`. Raises `ValueError` if `batch` is less than 1 or the queryset does not yield
    objects of one query, and the errors of the function, whose batch is undone.
    """
    if batch < 1:
        raise ValueError("batch must be 1 or more.")
    if (
        queryset.query.is_sliced
        or queryset.query.combinator
        or not issubclass(queryset._iterable_class, ModelIterable)
    ):
        raise ValueError(
            "for_each_batch() needs the objects of one query: no slice, no values() and no union()."
        )
    count = 0
    for objects in track(_Batches(queryset, batch, function, name), message="batches"):
        count += len(objects)
    return count


class _Batches:
    """The batches of one loop, each worked off before it is yielded."""

    def __init__(
        self,
        queryset: models.QuerySet[Any],
        size: int,
        function: Callable[[list[Any]], object],
        name: str,
    ) -> None:
        self.alias = queryset.db
        rows: models.QuerySet[Any] = queryset.order_by("pk").using(self.alias)
        # `order_by()` keeps what `reverse()` has turned round.
        self._rows = rows if rows.query.standard_ordering else rows.reverse()
        self._name = name
        self._key = queryset.model._meta.pk
        self._size = size
        self._function = function
        self._loop = ""
        self._positions = self._own_positions()
        text = self._positions and self._positions.read(self._loop)
        self._after = None if text is None else self._key.to_python(text)

    def _own_positions(self) -> Positions | None:
        loops = _current.get()
        if loops is None or loops.positions.alias != self.alias:
            return None
        if connections[self.alias].in_atomic_block:
            return None
        self._loop = loops.begin(self._name or self._text())
        return loops.positions

    def _text(self) -> str:
        """Return what identifies the loop after a crash: its function, and its query."""
        function = getattr(self._function, "__qualname__", "")
        return f"{function} {_text_of(self._rows)}"

    def __len__(self) -> int:
        return -(-self._left().count() // self._size)

    def _left(self) -> models.QuerySet[Any]:
        if self._after is None:
            return self._rows
        left: models.QuerySet[Any] = self._rows.filter(pk__gt=self._after)
        return left

    def __iter__(self) -> Iterator[list[Any]]:
        while True:
            with transaction.atomic(using=self.alias):
                objects = list(self._left()[: self._size])
                if not objects:
                    return
                # Before the function, which may delete the object or change it.
                after, key = objects[-1].pk, self._key.value_to_string(objects[-1])
                self._function(objects)
                if self._positions is not None:
                    self._positions.write(self._loop, key)
            self._after = after
            yield objects


def _text_of(rows: models.QuerySet[Any]) -> str:
    """Return the query with its parameters, in an order that is the same in each process."""
    query = rows.query.clone()
    query.select_for_update = False  # it may be compiled only in a transaction
    try:
        sql, params = query.sql_with_params()
    except EmptyResultSet:
        return "no rows"
    return f"{sql} {sorted(map(repr, params))}"
