"""The tables that a generated migration has made so far, so that its next operation is valid."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

#: The kinds of columns, with the class of their field and a default.
CLASSES = {
    "int": ("IntegerField", "7"),
    "big": ("BigIntegerField", "7"),
    "char": ("CharField", '"a"'),
    "text": ("TextField", '"b"'),
    "bool": ("BooleanField", "True"),
    "decimal": ("DecimalField", '"1.50"'),
    "fk": ("ForeignKey", "1"),
    "one": ("OneToOneField", "1"),
    "m2m": ("ManyToManyField", ""),
}
RELATIONS = ("fk", "one", "m2m")
NUMBERS = ("int", "big")
TEXTS = ("char", "text")


@dataclass(frozen=True)
class Column:
    """A field of a model, as its migration writes it."""

    kind: str
    null: bool = False
    default: bool = False
    db_default: bool = False
    index: bool = False
    unique: bool = False
    length: int = 50
    #: The model that a relation names.
    to: str = ""
    constraint: bool = True
    comment: str = ""
    db_column: str = ""
    #: True if no two of the rows have the same value.
    distinct: bool = False

    def source(self) -> str:
        """Return the call that makes the field."""
        name, default = CLASSES[self.kind]
        parts = []
        if self.to:
            parts.append(f'"shop.{self.to}"')
            parts += [] if self.kind == "m2m" else ["models.CASCADE"]
            parts.append('related_name="+"')
        if self.kind == "char":
            parts.append(f"max_length={self.length}")
        if self.kind == "decimal":
            parts.append("max_digits=8, decimal_places=2")
        parts += ["null=True"] if self.null else []
        parts += [f"default={default}"] if self.default else []
        parts += [f"db_default={default}"] if self.db_default else []
        parts += [f"db_index={self.index}"] if self._names_index else []
        parts += ["unique=True"] if self.unique and self.kind != "one" else []
        parts += ["db_constraint=False"] if not self.constraint else []
        parts += [f'db_comment="{self.comment}"'] if self.comment else []
        parts += [f'db_column="{self.db_column}"'] if self.db_column else []
        return f"models.{name}({', '.join(parts)})"

    @property
    def _names_index(self) -> bool:
        return self.index is not (self.kind == "fk") and self.kind not in ("one", "m2m")

    @property
    def may_return(self) -> bool:
        """True if the column can be added to a table with rows, also by a reversal."""
        if self.kind == "m2m":
            return True
        if self.unique or self.kind == "one":
            return self.null
        return self.null or self.default or self.db_default


@dataclass
class Model:
    """A model in the state of the migration."""

    name: str
    columns: dict[str, Column]
    #: True for the tables that have rows with the ids 1 to 3.
    has_rows: bool = False
    table: str = ""
    #: The fields that each index or constraint names.
    indexes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    constraints: dict[str, tuple[str, ...]] = field(default_factory=dict)
    together: tuple[str, ...] = ()
    order: str = ""
    #: Indexes and constraints that Django creates at the end, so it cannot change them before.
    deferred: set[str] = field(default_factory=set)

    def named(self, name: str) -> bool:
        """Return True if an index, a constraint or the order names the field."""
        groups = (*self.indexes.values(), *self.constraints.values())
        return name == self.order or any(name in group for group in groups)

    def free(self, *kinds: str) -> Iterator[tuple[str, Column]]:
        """Yield the fields of these kinds that no index and no constraint names."""
        for name, column in self.columns.items():
            if column.kind in kinds and not self.named(name):
                yield name, column


class World:
    """All models of the state."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self.models: dict[str, Model] = {}
        #: Names that SQL has made: of enums, and of custom settings.
        self.names: dict[str, list[str]] = {}
        #: Models that a deleted one named: Django cannot rename them in the same migration.
        self.fixed: set[str] = set()
        self._renamed: set[str] = set()
        for name, columns in _BASE.items():
            self.models[name] = Model(name, dict(columns), has_rows=True)

    def number(self) -> int:
        """Return a number that no name has yet."""
        return next(self._numbers)

    def fields(self) -> Iterator[tuple[Model, str, Column]]:
        """Yield each field with its model."""
        for model in self.models.values():
            for name, column in model.columns.items():
                yield model, name, column

    def is_referenced(self, name: str) -> bool:
        """Return True if a field of another model names the model."""
        return any(
            column.to == name and model.name != name
            for model, _, column in self.fields()
        )

    def names_renamed(self, name: str) -> bool:
        """Return True if the model names one that was renamed.

        If it is deleted then, a reversal of plain Django renames its columns or not: that depends
        on the relations that other operations have read before, and left in a cache.
        """
        columns = self.models[name].columns.values()
        return any(column.to in self._renamed for column in columns)

    def retarget(self, old: str, new: str) -> None:
        """Let the relations follow the new name of a model."""
        self._renamed.add(new)
        for model, name, column in list(self.fields()):
            if column.to == old:
                model.columns[name] = replace(column, to=new)


def _text(**changes: Any) -> Column:
    return Column("char", distinct=True, **changes)


_BASE: dict[str, dict[str, Column]] = {
    "Author": {
        "name": _text(),
        "age": Column("int", default=True, distinct=True),
        "note": Column("text", null=True),
    },
    "Shelf": {"label": _text(), "height": Column("int", default=True, distinct=True)},
    "Book": {
        "title": _text(),
        "pages": Column("int", default=True, distinct=True),
        "author": Column("fk", null=True, index=True, to="Author", distinct=True),
        "shelf": Column("fk", null=True, index=True, to="Shelf", distinct=True),
        "editors": Column("m2m", to="Author"),
    },
}
