"""Store the SQL that a schema editor postpones to the end of a migration, and restore it.

Django keeps it as trees of references, so that a later operation of the same migration can rename
or remove the names in it. Its text would freeze the names, so the trees are stored.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from copy import copy, deepcopy
from importlib import import_module
from operator import attrgetter
from types import FunctionType, MethodType
from typing import Any

from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.backends.ddl_references import (
    Columns,
    Expressions,
    ForeignKeyName,
    IndexColumns,
    IndexName,
    Reference,
    Statement,
    Table,
    TableColumns,
)

#: Surrounds the position of a column in the SQL of expressions. No identifier contains it.
_MARK = "\x1f"


class UnknownReference(TypeError):
    """A tree contains an object that cannot be stored."""


class StoredExpressions(TableColumns):
    """The expressions of an index: their SQL, with the columns that a rename may change."""

    def __init__(
        self, table: str, columns: list[str], parts: list[str | int], quote: Any
    ) -> None:
        super().__init__(table, columns)
        #: Texts, and the positions of columns between them.
        self.parts = parts
        self.quote_name = quote

    def __str__(self) -> str:
        return "".join(
            part if isinstance(part, str) else self.quote_name(self.columns[part])
            for part in self.parts
        )


def dump(item: Any, editor: BaseDatabaseSchemaEditor) -> Any:
    """Return the item of `deferred_sql` as values of JSON.

    A template that is no text is stored as the attribute of the editor that it is. An object of
    a package is stored by its attributes, if it is a reference or its class belongs to the
    package of the editor. Raises `UnknownReference` for any other object.
    """
    if item is None or isinstance(item, (str, int, float)):
        return item
    template: Any = getattr(item, "template", "")
    if isinstance(item, Statement) and not isinstance(template, str):
        name = _template_name(template, editor)
        return ["Statement", {"template": name}, _dump_parts(item, editor)]
    if type(item) is Statement:
        return ["Statement", item.template, _dump_parts(item, editor)]
    dumper = _DUMPERS.get(type(item))
    if dumper is not None:
        return [type(item).__name__, *dumper(item)]
    return _dump_other(item, editor)


def _dump_other(item: Any, editor: BaseDatabaseSchemaEditor) -> list[Any]:
    """Return an object of a package, or the value of one of its attributes."""
    if type(item) in (list, tuple):
        return ["Items", type(item).__name__, [dump(each, editor) for each in item]]
    if type(item) is dict:
        return ["Dict", {name: dump(value, editor) for name, value in item.items()}]
    if isinstance(item, FunctionType):
        return ["Naming", *_dump_naming(item)]
    if isinstance(item, MethodType):
        return ["Method", _path_of(item, editor)]
    if _is_known(type(item), editor):
        return ["Object", *_dump_object(item, editor)]
    raise UnknownReference(
        f"{type(item).__qualname__} is no reference that Django defines."
    )


def _path_of(method: MethodType, editor: BaseDatabaseSchemaEditor) -> str:
    """Return where the editor has the method."""
    for path in (method.__name__, f"connection.ops.{method.__name__}"):
        with suppress(AttributeError):
            if attrgetter(path)(editor) == method:
                return path
    raise UnknownReference(f"{method!r} does not belong to the schema editor.")


def _is_known(kind: Any, editor: BaseDatabaseSchemaEditor) -> bool:
    """Return True if an object of the class can be made again from its attributes."""
    if not isinstance(kind, type):
        return False
    named: Any = getattr(import_module(kind.__module__), kind.__qualname__, None)
    if named is not kind:
        return False
    return issubclass(kind, Reference) or kind.__module__ in _modules(editor)


def _modules(editor: BaseDatabaseSchemaEditor) -> set[str]:
    """Return the modules of the packages whose classes the editor extends."""
    names = {each.__module__ for each in type(editor).__mro__}
    own = ("builtins", "django.", "django_safe_init.")
    return {name for name in names if not name.startswith(own)}


def _dump_object(item: Any, editor: BaseDatabaseSchemaEditor) -> list[Any]:
    """Return the class, the items of a list, and the attributes."""
    kind = type(item)
    items = [dump(each, editor) for each in item] if isinstance(item, list) else None
    attributes = {
        name: dump(value, editor)
        for name, value in getattr(item, "__dict__", {}).items()
    }
    return [kind.__module__, kind.__qualname__, items, attributes]


def _load_object(
    editor: Any, module: str, name: str, items: Any, attributes: dict[str, Any]
) -> Any:
    kind = getattr(import_module(module), name)
    if not _is_known(kind, editor):
        raise UnknownReference(f"{module}.{name} is no reference of a package.")
    made = kind.__new__(kind)
    if items is not None:
        made.extend(_load(each, editor) for each in items)
    for attribute, value in attributes.items():
        setattr(made, attribute, _load(value, editor))
    return made


def _load_items(editor: Any, kind: str, items: list[Any]) -> Any:
    found = [_load(each, editor) for each in items]
    return found if kind == "list" else tuple(found)


def load(value: Any, editor: BaseDatabaseSchemaEditor) -> Any:
    """Return the item that `dump` has stored, for this editor.

    Django changes the lists of names in an item in place, so they are copies.
    """
    return _load(deepcopy(value), editor)


def _load(value: Any, editor: BaseDatabaseSchemaEditor) -> Any:
    if not isinstance(value, list):
        return value
    name, *values = value
    return _LOADERS[name](editor, *values)


def _dump_parts(item: Statement, editor: BaseDatabaseSchemaEditor) -> dict[str, Any]:
    return {name: dump(part, editor) for name, part in item.parts.items()}


def _template_name(template: Any, editor: BaseDatabaseSchemaEditor) -> str:
    """Return the attribute of the editor that is this template."""
    for name in dir(editor):
        if name.startswith("sql_") and getattr(editor, name, None) is template:
            return name
    raise UnknownReference(f"{template!r} is no template of the schema editor.")


def _load_statement(
    editor: Any, template: str | dict[str, str], parts: dict[str, Any]
) -> Statement:
    found: Any = template
    if isinstance(template, dict):
        found = getattr(editor, template["template"])
    return Statement(
        found, **{name: _load(part, editor) for name, part in parts.items()}
    )


#: The functions of Django's schema editor that make a name, and those inside its methods that
#: also quote it. The first of them keeps the name that it has made.
_PLAIN = "_create_index_name"
_NAMING = ("create_index_name", "create_unique_name", "create_fk_name")


def _dump_naming(function: Any) -> list[Any]:
    """Return which function makes a name, and the name it has fixed.

    Raises `UnknownReference` for a function that a package has added.
    """
    name = getattr(function, "__name__", "")
    if name == _PLAIN:
        return [name, None]
    if name not in _NAMING or not isinstance(function, FunctionType):
        raise UnknownReference(f"{function!r} names no object of the database.")
    cells = dict(
        zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    )
    fixed = cells["name"].cell_contents if "name" in cells else None
    return [name, fixed]


def _load_naming(editor: Any, kind: str, fixed: str | None) -> Callable[..., str]:
    """Return a function like the stored one, with its name, which `_dump_naming` reads."""
    if kind == _PLAIN:
        return editor._create_index_name  # type: ignore[no-any-return]
    name = fixed
    keeps = kind == _NAMING[0]

    def create_index_name(*args: Any, **kwargs: Any) -> str:
        nonlocal name
        made = editor._create_index_name(*args, **kwargs) if name is None else name
        if keeps:
            name = made
        return str(editor.quote_name(made))

    create_index_name.__name__ = kind
    return create_index_name


def _dump_expressions(item: Expressions) -> list[Any]:
    """Return the compiled expressions. A rename replaces the object, so it is compiled once."""
    compiled, parts = vars(item).get("safe_init_parts", (None, [""]))
    if compiled is not item.expressions or parts[0] != item.table:
        parts = _compile(item)
        vars(item)["safe_init_parts"] = item.expressions, parts
    return list(parts)


def _compile(item: Expressions) -> list[Any]:
    """Compile the expressions with the position of each column in place of its name."""
    marked = copy(item)
    marked.expressions = deepcopy(item.expressions)
    columns = []
    for col in item.compiler.query._gen_cols([marked.expressions]):
        columns.append(col.target.column)
        target = copy(col.target)
        target.column = f"{_MARK}{len(columns) - 1}{_MARK}"
        col.target = target
    text = str(marked)
    quoted = item.compiler.connection.ops.quote_name(_MARK).split(_MARK)
    pieces = text.replace(f"{quoted[0]}{_MARK}", _MARK).replace(
        f"{_MARK}{quoted[1]}", _MARK
    )
    parts: list[str | int] = [
        int(piece) if position % 2 else piece
        for position, piece in enumerate(pieces.split(_MARK))
    ]
    return [item.table, columns, parts]


_DUMPERS: dict[type, Callable[[Any], list[Any]]] = {
    Table: lambda item: [item.table],
    TableColumns: lambda item: [item.table, list(item.columns)],
    Columns: lambda item: [item.table, list(item.columns), list(item.col_suffixes)],
    IndexColumns: lambda item: [
        item.table,
        list(item.columns),
        list(item.col_suffixes),
        list(item.opclasses),
    ],
    IndexName: lambda item: [
        item.table,
        list(item.columns),
        item.suffix,
        _dump_naming(item.create_index_name),
    ],
    ForeignKeyName: lambda item: [
        item.table,
        list(item.columns),
        item.to_reference.table,
        list(item.to_reference.columns),
        item.suffix_template,
        _dump_naming(item.create_fk_name),
    ],
    Expressions: _dump_expressions,
    StoredExpressions: lambda item: [item.table, list(item.columns), item.parts],
}


def _load_expressions(
    editor: Any, table: str, columns: list[str], parts: list[str | int]
) -> StoredExpressions:
    return StoredExpressions(table, columns, parts, editor.quote_name)


def _load_foreign_key_name(
    editor: Any,
    table: str,
    columns: list[str],
    to_table: str,
    to_columns: list[str],
    suffix: str,
    naming: list[Any],
) -> ForeignKeyName:
    create_name = _load_naming(editor, *naming)
    return ForeignKeyName(table, columns, to_table, to_columns, suffix, create_name)


_LOADERS: dict[str, Callable[..., Any]] = {
    "Object": _load_object,
    "Items": _load_items,
    "Dict": lambda editor, values: {
        name: _load(value, editor) for name, value in values.items()
    },
    "Naming": lambda editor, *naming: _load_naming(editor, *naming),
    "Method": lambda editor, path: attrgetter(path)(editor),
    "Statement": _load_statement,
    "Table": lambda editor, table: Table(table, editor.quote_name),
    "TableColumns": lambda editor, *values: TableColumns(*values),
    "Columns": lambda editor, table, columns, suffixes: Columns(
        table, columns, editor.quote_name, suffixes
    ),
    "IndexColumns": lambda editor, table, columns, suffixes, opclasses: IndexColumns(
        table, columns, editor.quote_name, suffixes, opclasses
    ),
    "IndexName": lambda editor, table, columns, suffix, naming: IndexName(
        table, columns, suffix, _load_naming(editor, *naming)
    ),
    "ForeignKeyName": _load_foreign_key_name,
    "Expressions": _load_expressions,
    "StoredExpressions": _load_expressions,
}
