"""The kinds of operations: each makes one that is valid after those before it.

A maker gets the tables, which it changes, and a `Chooser`. It returns None if the tables have
nothing that it could work on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from hypothesis import strategies as st

from tests.resume.steps import Group, Item, Step
from tests.resume.world import NUMBERS, RELATIONS, TEXTS, Column, Model, World

T = TypeVar("T")
_BYTES = st.binary(min_size=3, max_size=3)


class Chooser:
    """The choices of one plan, which Hypothesis makes."""

    def __init__(
        self, draw: Callable[[st.SearchStrategy[Any]], Any], engine: str
    ) -> None:
        self.draw = draw
        self.engine = engine

    @property
    def is_postgres(self) -> bool:
        return self.engine == "postgresql"

    def one(self, values: Iterable[T]) -> T | None:
        """Return one of the values; None without any."""
        found = list(values)
        return found[self.number(0, len(found) - 1)] if found else None

    def flag(self) -> bool:
        return bool(self.number(0, 1))

    def number(self, low: int, high: int) -> int:
        """Return a number from `low` to `high`.

        It is drawn as bytes: Hypothesis prefers the integers that the loaded modules contain, so
        those would change the plans.
        """
        drawn = int.from_bytes(self.draw(_BYTES), "big")
        return low + drawn % (high - low + 1)


Maker = Callable[[World, Chooser], Item | None]


# Models


def create_model(world: World, choose: Chooser) -> Item:
    """Create a model with fields, indexes and constraints of many kinds."""
    number = world.number()
    long = "WithANameThatIsMuchLongerThanOthers" if choose.flag() else ""
    model = Model(f"Model{number}{long}", {})
    for _ in range(choose.number(1, 4)):
        name, column = _new_column(world, choose, model)
        model.columns[name] = column
    model.table = f"Table {number}" if choose.number(0, 3) == 0 else ""
    options = [f'"db_table": "{model.table}"'] if model.table else []
    options += ['"db_table_comment": "made"'] if choose.flag() else []
    indexes = [each for each in (_index(world, choose, model),) if each]
    constraints = [each for each in (_constraint(world, choose, model),) if each]
    model.deferred = {*model.indexes, *model.constraints}
    options += [f'"indexes": [{", ".join(indexes)}]'] if indexes else []
    options += [f'"constraints": [{", ".join(constraints)}]'] if constraints else []
    world.models[model.name] = model
    fields = "".join(
        f', ("{name}", {each.source()})' for name, each in model.columns.items()
    )
    return Step(
        "CreateModel",
        f'migrations.CreateModel("{model.name}",'
        f' [("id", models.BigAutoField(primary_key=True)){fields}],'
        f" options={{{', '.join(options)}}})",
    )


def _new_column(world: World, choose: Chooser, model: Model) -> tuple[str, Column]:
    number = world.number()
    kind = choose.one(
        ["int", "big", "char", "text", "bool", "decimal", "fk", "fk", "one", "m2m"]
    )
    assert kind is not None
    to = ""
    if kind in RELATIONS:
        targets = [
            each
            for each in world.models.values()
            if each.has_rows or not model.has_rows
        ]
        target = choose.one(targets)
        to = target.name if target else "Author"
    column = Column(kind, to=to)
    if kind != "m2m":
        column = _with_options(choose, column, number)
    if model.has_rows and not column.may_return:
        column = replace(column, null=True)
    return f"f{number}", column


def _with_options(choose: Chooser, column: Column, number: int) -> Column:
    how = choose.one(["null", "default", "db_default", "none"])
    relation = column.kind in RELATIONS
    unique = column.kind == "one" or (choose.number(0, 4) == 0 and column.kind != "fk")
    index = column.kind == "fk" if choose.flag() else not relation and not unique
    return replace(
        column,
        null=how == "null",
        default=how == "default" and not unique,
        db_default=how == "db_default" and not relation and not unique,
        unique=unique and column.kind != "text",
        index=index and column.kind != "one",
        constraint=not relation or choose.number(0, 4) > 0,
        comment="a comment" if choose.number(0, 3) == 0 else "",
        db_column=f"Column {number}" if choose.number(0, 5) == 0 else "",
    )


def delete_model(world: World, choose: Chooser) -> Item | None:
    """Delete a model that no other one names, and that names no renamed one."""
    name = choose.one(
        each
        for each in world.models
        if not (world.is_referenced(each) or world.names_renamed(each))
    )
    if name is None or len(world.models) < 3:
        return None
    deleted = world.models.pop(name)
    world.fixed |= {each.to for each in deleted.columns.values()}
    return Step("DeleteModel", f'migrations.DeleteModel("{name}")')


def rename_model(world: World, choose: Chooser) -> Item | None:
    """Rename a model; relations and tables follow."""
    model = choose.one(
        each for each in world.models.values() if each.name not in world.fixed
    )
    if model is None:
        return None
    new = f"Renamed{world.number()}"
    old, model.name = model.name, new
    world.models = {each.name: each for each in world.models.values()}
    world.retarget(old, new)
    return Step("RenameModel", f'migrations.RenameModel("{old}", "{new}")')


def _model(world: World, choose: Chooser) -> Model:
    model = choose.one(world.models.values())
    assert model is not None
    return model


def alter_table(world: World, choose: Chooser) -> Item:
    """Give a model another table."""
    model = _model(world, choose)
    model.table = (
        choose.one([f"Odd Table {world.number()}", f"table{world.number()}"]) or ""
    )
    return Step(
        "AlterModelTable",
        f'migrations.AlterModelTable("{model.name}", "{model.table}")',
    )


def alter_table_comment(world: World, choose: Chooser) -> Item:
    """Give a table another comment."""
    model, number = _model(world, choose), world.number()
    return Step(
        "AlterModelTableComment",
        f'migrations.AlterModelTableComment("{model.name}", "it\'s \\\\ {number}")',
    )


def alter_options(world: World, choose: Chooser) -> Item:
    """Change options that have no effect on the database."""
    model = _model(world, choose)
    return Step(
        "AlterModelOptions",
        f'migrations.AlterModelOptions("{model.name}", {{"verbose_name": "x"}})',
    )


# Fields


def add_field(world: World, choose: Chooser) -> Item:
    """Add a field."""
    model = _model(world, choose)
    name, column = _new_column(world, choose, model)
    model.columns[name] = column
    return Step(
        "AddField", f'migrations.AddField("{model.name}", "{name}", {column.source()})'
    )


def remove_field(world: World, choose: Chooser) -> Item | None:
    """Remove a field that a reversal can add again."""
    found = choose.one(
        (model, name)
        for model, name, column in world.fields()
        if column.may_return
        and len(model.columns) > 1
        and not model.named(name)
        and name not in model.together
    )
    if found is None:
        return None
    model, name = found
    del model.columns[name]
    return Step("RemoveField", f'migrations.RemoveField("{model.name}", "{name}")')


def rename_field(world: World, choose: Chooser) -> Item | None:
    """Rename a field that no index and no constraint names."""
    found = choose.one(
        (model, name) for model, name, _ in world.fields() if not model.named(name)
    )
    if found is None:
        return None
    model, name = found
    new = f"renamed{world.number()}"
    model.columns = {
        new if key == name else key: each for key, each in model.columns.items()
    }
    model.together = tuple(new if each == name else each for each in model.together)
    return Step(
        "RenameField", f'migrations.RenameField("{model.name}", "{name}", "{new}")'
    )


def alter_field(world: World, choose: Chooser) -> Item | None:
    """Change a field in a way that a reversal can take back."""
    found = choose.one(
        (model, name, column)
        for model, name, column in world.fields()
        if column.kind != "m2m" and not model.named(name) and name not in model.together
    )
    if found is None:
        return None
    model, name, column = found
    changed = choose.one(_changes(world, choose, model, column))
    if changed is None:
        return None
    model.columns[name] = changed
    return Step(
        "AlterField",
        f'migrations.AlterField("{model.name}", "{name}", {changed.source()})',
    )


def _changes(
    world: World, choose: Chooser, model: Model, column: Column
) -> list[Column]:
    """Return the columns that this one can become."""
    found = [replace(column, comment=f"comment {world.number()}")]
    if column.kind == "one":
        found.append(replace(column, kind="fk", index=True, unique=False))
    elif column.kind == "fk":
        found.append(replace(column, index=not column.index))
        found.append(replace(column, constraint=not column.constraint))
        if column.distinct or not model.has_rows:
            found.append(replace(column, kind="one", index=False))
        found += [
            replace(column, to=each.name)
            for each in world.models.values()
            if each.has_rows
        ]
    else:
        found += _plain_changes(model, column)
    if not column.null:
        found.append(replace(column, null=True, default=False, db_default=False))
    return found


def _plain_changes(model: Model, column: Column) -> list[Column]:
    found = []
    if not column.unique:
        found.append(replace(column, index=not column.index))
        if (column.distinct or not model.has_rows) and column.kind != "text":
            found.append(replace(column, unique=True, index=False, default=False))
    if column.kind == "int":
        found.append(replace(column, kind="big"))
    if column.kind == "char":
        found.append(replace(column, length=column.length + 30))
        if not column.unique:
            found.append(replace(column, kind="text"))
    if column.kind in NUMBERS:
        found.append(replace(column, default=True, db_default=False, null=column.null))
        found.append(replace(column, db_default=True, default=False))
    return found


def alter_together(world: World, choose: Chooser) -> Item | None:
    """Set or clear `unique_together`."""
    model = choose.one(
        each for each in world.models.values() if each.together or _distinct_pair(each)
    )
    if model is None:
        return None
    model.together = () if model.together else _distinct_pair(model)
    pairs = f"{{{model.together!r}}}" if model.together else "set()"
    return Step(
        "AlterUniqueTogether",
        f'migrations.AlterUniqueTogether("{model.name}", {pairs})',
    )


def _distinct_pair(model: Model) -> tuple[str, ...]:
    plain = [
        name
        for name, each in model.columns.items()
        if each.kind in (*NUMBERS, "char", "fk")
        and (each.distinct or not model.has_rows)
    ]
    return tuple(plain[:2]) if len(plain) > 1 else ()


def alter_order(world: World, choose: Chooser) -> Item | None:
    """Set or clear `order_with_respect_to`."""
    found = choose.one(
        (model, name)
        for model, name, each in world.fields()
        if each.kind == "fk" and model.order in ("", name)
    )
    if found is None:
        return None
    model, name = found
    model.order = "" if model.order else name
    value = f'"{model.order}"' if model.order else "None"
    return Step(
        "AlterOrderWithRespectTo",
        f'migrations.AlterOrderWithRespectTo("{model.name}", {value})',
    )


# Indexes and constraints


def _index(world: World, choose: Chooser, model: Model) -> str | None:
    """Return an index, and enter it into the model."""
    name = f"index_{world.number()}"
    made = choose.one(_indexes(choose, model, name))
    if made is None:
        return None
    fields, source = made
    model.indexes[name] = fields
    return source


def _indexes(
    choose: Chooser, model: Model, name: str
) -> list[tuple[tuple[str, ...], str]]:
    found: list[tuple[tuple[str, ...], str]] = []
    plain = [key for key, each in model.columns.items() if each.kind not in ("m2m",)]
    for key in plain:
        kind = model.columns[key].kind
        found.append(((key,), f'models.Index(fields=["-{key}"], name="{name}")'))
        if kind in TEXTS:
            found.append(
                ((key,), f'models.Index(Lower("{key}").desc(), name="{name}")')
            )
        if kind in NUMBERS:
            found.append(
                (
                    (key,),
                    f'models.Index(fields=["{key}"], name="{name}",'
                    f" condition=models.Q({key}__gt=1))",
                )
            )
            found.append(
                ((key,), f'models.Index(models.F("{key}") + 1, "{key}", name="{name}")')
            )
        if choose.is_postgres:
            found += [((key,), each) for each in _postgres_indexes(key, kind, name)]
    if len(plain) > 1:
        pair = (plain[0], plain[-1])
        found.append((pair, f'models.Index(fields={list(pair)}, name="{name}")'))
    return found


def _postgres_indexes(key: str, kind: str, name: str) -> list[str]:
    found = [f'HashIndex(fields=["{key}"], name="{name}")']
    if kind in NUMBERS:
        found.append(f'BrinIndex(fields=["{key}"], name="{name}", pages_per_range=4)')
        found.append(f'models.Index(fields=["id"], include=["{key}"], name="{name}")')
    if kind == "char":
        found.append(
            f'models.Index(fields=["{key}"], name="{name}", opclasses=["varchar_pattern_ops"])'
        )
        found.append(
            f'models.Index(Upper("{key}"), models.F("id"), name="{name}",'
            f' condition=models.Q({key}__gt="%"))'
        )
    return found


def add_index(world: World, choose: Chooser) -> Item | None:
    """Add an index."""
    model = _model(world, choose)
    source = _index(world, choose, model)
    return source and Step("AddIndex", f'migrations.AddIndex("{model.name}", {source})')


def add_index_concurrently(world: World, choose: Chooser) -> Item | None:
    """Add an index concurrently."""
    model = _model(world, choose)
    source = _index(world, choose, model) if choose.is_postgres else None
    return source and Step(
        "AddIndexConcurrently",
        f'postgres.AddIndexConcurrently("{model.name}", {source})',
    )


def _some_index(world: World, choose: Chooser) -> tuple[Model, str] | None:
    return choose.one(
        (model, name)
        for model in world.models.values()
        for name in model.indexes
        if name not in model.deferred
    )


def remove_index(world: World, choose: Chooser) -> Item | None:
    """Remove an index."""
    found = _some_index(world, choose)
    if found is None:
        return None
    model, name = found
    del model.indexes[name]
    return Step("RemoveIndex", f'migrations.RemoveIndex("{model.name}", "{name}")')


def remove_index_concurrently(world: World, choose: Chooser) -> Item | None:
    """Remove an index concurrently."""
    step = remove_index(world, choose) if choose.is_postgres else None
    if not isinstance(step, Step):
        return None
    source = step.source.replace(
        "migrations.RemoveIndex", "postgres.RemoveIndexConcurrently"
    )
    return Step("RemoveIndexConcurrently", source)


def rename_index(world: World, choose: Chooser) -> Item | None:
    """Rename an index."""
    found = _some_index(world, choose)
    if found is None:
        return None
    model, name = found
    new = f"index_{world.number()}"
    model.indexes[new] = model.indexes.pop(name)
    return Step(
        "RenameIndex",
        f'migrations.RenameIndex("{model.name}", new_name="{new}", old_name="{name}")',
    )


def _constraint(world: World, choose: Chooser, model: Model) -> str | None:
    """Return a constraint, and enter it into the model."""
    name = f"constraint_{world.number()}"
    found = []
    for key, each in model.columns.items():
        if each.kind in NUMBERS:
            found.append(
                (key, f"models.CheckConstraint(condition=models.Q({key}__gt=-9),")
            )
        if each.kind not in ("m2m", "text") and (each.distinct or not model.has_rows):
            found += [
                (key, text) for text in _unique_constraints(choose, key, each.kind)
            ]
    made = choose.one(found)
    if made is None:
        return None
    model.constraints[name] = (made[0],)
    return f'{made[1]} name="{name}")'


def _unique_constraints(choose: Chooser, key: str, kind: str) -> list[str]:
    found = [
        f'models.UniqueConstraint(fields=["{key}", "id"],',
        f'models.UniqueConstraint(fields=["{key}"], condition=models.Q(id__gt=1),',
    ]
    if kind == "char":
        found.append(f'models.UniqueConstraint(Lower("{key}"),')
    if choose.is_postgres:
        found.append(
            f'models.UniqueConstraint(fields=["{key}"], deferrable=models.Deferrable.DEFERRED,'
        )
        found.append(f'models.UniqueConstraint(fields=["{key}"], include=["id"],')
    return found


def add_constraint(world: World, choose: Chooser) -> Item | None:
    """Add a constraint."""
    model = _model(world, choose)
    source = _constraint(world, choose, model)
    return source and Step(
        "AddConstraint", f'migrations.AddConstraint("{model.name}", {source})'
    )


def remove_constraint(world: World, choose: Chooser) -> Item | None:
    """Remove a constraint."""
    found = choose.one(
        (model, name)
        for model in world.models.values()
        for name in model.constraints
        if name not in model.deferred
    )
    if found is None:
        return None
    model, name = found
    del model.constraints[name]
    return Step(
        "RemoveConstraint", f'migrations.RemoveConstraint("{model.name}", "{name}")'
    )


# Groups


def separate(world: World, choose: Chooser) -> Item:
    """Put operations into `SeparateDatabaseAndState`, also nested."""
    inner: list[Item] = []
    for _ in range(choose.number(1, 3)):
        maker = choose.one([add_field, add_index, run_sql, run_python, rename_field])
        assert maker is not None
        made = maker(world, choose)
        if made is not None:
            inner.append(made)
    if not inner:
        inner.append(run_sql(world, choose))
    if choose.flag():
        return Group((Group(tuple(inner)), run_sql(world, choose)))
    return Group(tuple(inner))


# Python


def run_python(world: World, choose: Chooser) -> Item:
    """Change rows in a transaction, such that a second time would be seen."""
    number = world.number()
    numbers = [
        (model.name, name)
        for model, name, each in world.fields()
        if model.has_rows and each.kind in NUMBERS
    ]
    found = choose.one(numbers)
    add = [
        f'helpers.add(apps, "{found[0]}", "{found[1]}", %d)' % sign for sign in (1, -1)
    ]
    return (
        _python(
            number,
            "RunPython(atomic=True)",
            [f'helpers.log(schema_editor, "{number}")', *add[:1]],
            [f'helpers.log(schema_editor, "-{number}")', *add[1:]],
            "True",
            (str(number),),
        )
        if found
        else run_python_bare(world, choose)
    )


def _python(
    number: int,
    kind: str,
    forwards: Sequence[str],
    backwards: Sequence[str],
    atomic: str,
    exact: tuple[str, ...] = (),
) -> Step:
    functions = "".join(
        f"\ndef {name}_{number}(apps, schema_editor):\n"
        + "".join(f"    {line}\n" for line in lines)
        for name, lines in (("forwards", forwards), ("backwards", backwards))
    )
    source = (
        f"migrations.RunPython(forwards_{number}, backwards_{number}, atomic={atomic})"
    )
    return Step(kind, source, functions, exact)


def run_python_bare(world: World, choose: Chooser) -> Item:
    """Run Python code without a transaction, which may be repeated."""
    number = world.number()
    return _python(
        number,
        "RunPython",
        [f'helpers.log_once(schema_editor, "once {number}")'],
        [f'helpers.forget(schema_editor, "once {number}")'],
        "None",
    )


def run_python_table(world: World, choose: Chooser) -> Item:
    """Create a table, with deferred SQL, through the schema editor."""
    number, target = world.number(), _model(world, choose).name
    return _python(
        number,
        "RunPython with the schema editor",
        [
            f'helpers.create_table(apps, schema_editor, "Made{number}", "{target}")',
            f'helpers.log(schema_editor, "{number}")',
        ],
        [
            f"schema_editor.execute('DROP TABLE shop_made{number}')",
            f'helpers.log(schema_editor, "-{number}")',
        ],
        "True",
        (str(number),),
    )


def custom(world: World, choose: Chooser) -> Item:
    """Run an operation of the project's own class."""
    number = world.number()
    stubborn = choose.flag()
    kind = "operation that catches its error" if stubborn else "custom operation"
    return Step(kind, f'helpers.MakeTable("made{number}", stubborn={stubborn})')


# SQL


def _log(text: str) -> str:
    return f"INSERT INTO shop_log (text) VALUES ('{text}')"


def _sql(kind: str, forwards: str, backwards: str, *exact: str) -> Step:
    is_list = forwards.startswith("[")
    source = f"migrations.RunSQL({forwards}, {backwards})"
    return Step(kind, source, exact=exact, is_list=is_list or len(exact) > 1)


def run_sql(world: World, choose: Chooser) -> Item:
    """Run SQL of any kind."""
    makers = [_sql_text, _sql_list, _sql_params, _sql_script, _sql_control, _sql_table]
    makers += [_sql_trigger] if choose.is_postgres else [_sqlite_trigger]
    maker = choose.one(makers)
    assert maker is not None
    return maker(world.number(), choose)


def _sql_text(number: int, choose: Chooser) -> Step:
    return _sql(
        "RunSQL text", f'"{_log(f"{number}")}"', f'"{_log(f"-{number}")}"', f"{number}"
    )


def _sql_list(number: int, choose: Chooser) -> Step:
    texts = [f"{number}.{part}" for part in range(1, choose.number(2, 4) + 1)]
    forwards = [_log(text) for text in texts]
    backwards = [_log(f"-{text}") for text in texts]
    return _sql("RunSQL list", repr(forwards), repr(backwards), *texts)


def _sql_params(number: int, choose: Chooser) -> Step:
    insert = "INSERT INTO shop_log (text) VALUES (%s)"
    texts = [f"{number}.{part}%" for part in (1, 2)]
    forwards = [(insert, [text]) for text in texts]
    backwards = [(insert, [f"-{text}"]) for text in texts]
    return _sql("RunSQL with parameters", repr(forwards), repr(backwards), *texts)


def _sql_script(number: int, choose: Chooser) -> Step:
    texts = [f"{number}.{part}" for part in (1, 2, 3)]
    forwards = "; -- done\n".join(_log(text) for text in texts)
    backwards = ";\n".join(_log(f"-{text}") for text in texts)
    return _sql("RunSQL script", repr(forwards), repr(backwards), *texts)


def _sql_control(number: int, choose: Chooser) -> Step:
    """Return a script with its own transaction, which may be repeated as a whole."""
    forwards = (
        f"BEGIN; CREATE TABLE IF NOT EXISTS sql{number} (code integer); COMMIT;"
        f" DELETE FROM shop_log WHERE text = 'once {number}'; {_log(f'once {number}')};"
    )
    backwards = (
        f"DELETE FROM shop_log WHERE text = 'once {number}';"
        f" BEGIN; DROP TABLE IF EXISTS sql{number}; COMMIT;"
    )
    return _sql("RunSQL with BEGIN and COMMIT", repr(forwards), repr(backwards))


def _sql_table(number: int, choose: Chooser) -> Step:
    """Return a list that makes a table; its reversal also works after a part of it."""
    forwards = [
        f"CREATE TABLE sql{number} (code integer DEFAULT 5, name text UNIQUE)",
        f"INSERT INTO sql{number} (name) VALUES ('a'), ('b')",
        f"CREATE INDEX sql{number}_code ON sql{number} (code)",
    ]
    return _sql(
        "RunSQL with DDL", repr(forwards), f'"DROP TABLE IF EXISTS sql{number}"'
    )


def _sql_trigger(number: int, choose: Chooser) -> Step:
    body = (
        f"CREATE FUNCTION touch{number}() RETURNS trigger LANGUAGE plpgsql AS $$\n"
        "BEGIN /* COMMIT; */ NEW.text := NEW.text; RETURN NEW; END $$"
    )
    trigger = (
        f"CREATE TRIGGER touch{number} BEFORE INSERT ON shop_log"
        f" FOR EACH ROW EXECUTE FUNCTION touch{number}()"
    )
    drop = f"DROP FUNCTION IF EXISTS touch{number} CASCADE"
    return _sql("RunSQL with a trigger", f"{body!r} ';' {trigger!r}", repr(drop))


def _sqlite_trigger(number: int, choose: Chooser) -> Step:
    trigger = (
        f"CREATE TRIGGER touch{number} AFTER INSERT ON shop_log BEGIN"
        " UPDATE shop_log SET text = NEW.text WHERE id = NEW.id; SELECT 1; END"
    )
    drop = f"DROP TRIGGER IF EXISTS touch{number}"
    return _sql("RunSQL with a trigger", repr([trigger]), repr(drop))


def run_sql_setting(world: World, choose: Chooser) -> Item | None:
    """Change a setting of the session, and use it in a later operation."""
    if not choose.is_postgres:
        cache = f"PRAGMA cache_size = -{2000 + world.number()}"
        return _sql("RunSQL PRAGMA", repr(cache), "'PRAGMA cache_size = -2000'")
    number = world.number()
    names = world.names.setdefault("settings", [])
    if not names or choose.flag():
        names.append(f"shop.v{number}")
        return _sql(
            "RunSQL SET", f"\"SET shop.v{number} = 'set'\"", f'"RESET shop.v{number}"'
        )
    name = choose.one(names)
    insert = (
        f"INSERT INTO shop_log (text) VALUES ('{number} ' || current_setting('{name}'))"
    )
    return _sql(
        "RunSQL after SET", repr(insert), repr(_log(f"-{number} set")), f"{number} set"
    )


def run_sql_maintenance(world: World, choose: Chooser) -> Item:
    """Run a statement that refuses every transaction."""
    statements = ["VACUUM", "ANALYZE"]
    statements += ["VACUUM ANALYZE shop_log", "REINDEX TABLE CONCURRENTLY shop_log"] * (
        choose.is_postgres
    )
    statement = choose.one(statements)
    return _sql("RunSQL maintenance", f'"{statement}"', f'"{statement}"')


def run_sql_index(world: World, choose: Chooser) -> Item | None:
    """Create an index concurrently by SQL."""
    if not choose.is_postgres:
        return None
    number = world.number()
    create = f"CREATE INDEX CONCURRENTLY sql{number} ON shop_log (text, id)"
    drop = f"DROP INDEX CONCURRENTLY IF EXISTS sql{number}"
    if choose.flag():
        other = create.replace(f"sql{number}", f'"Sql {number}"')
        dropped = drop.replace(f"sql{number}", f'public."Sql {number}"')
        return _sql("RunSQL CONCURRENTLY", repr([create, other]), repr([dropped, drop]))
    return _sql("RunSQL CONCURRENTLY", repr(create), repr(drop))


def run_sql_call(world: World, choose: Chooser) -> Item | None:
    """Call a procedure that commits, and use a new value of an enum."""
    if not choose.is_postgres:
        return None
    number = world.number()
    if choose.flag():
        mood = [
            f"CREATE TYPE mood{number} AS ENUM ('a')",
            f"ALTER TYPE mood{number} ADD VALUE 'b'",
            f"INSERT INTO shop_log (text) VALUES ('{number} ' || 'b'::mood{number})",
        ]
        back = [f"DROP TYPE IF EXISTS mood{number}", _log(f"-{number} b")]
        return _sql("RunSQL with an enum", repr(mood), repr(back), f"{number} b")
    forwards = [
        f"CREATE PROCEDURE work{number}() LANGUAGE plpgsql AS $$ BEGIN"
        f" DELETE FROM shop_log WHERE text = 'once {number}'; COMMIT;"
        f" {_log(f'once {number}')}; END $$",
        f"CALL work{number}()",
    ]
    back = [
        f"DROP PROCEDURE IF EXISTS work{number}",
        f"DELETE FROM shop_log WHERE text = 'once {number}'",
    ]
    return _sql("RunSQL CALL", repr(forwards), repr(back))


#: In this order Hypothesis prefers the first ones when it simplifies.
MAKERS: tuple[Maker, ...] = (
    run_sql,
    add_field,
    create_model,
    create_model,
    add_field,
    alter_field,
    alter_field,
    remove_field,
    rename_field,
    rename_model,
    delete_model,
    alter_table,
    alter_table_comment,
    alter_options,
    alter_together,
    alter_order,
    add_index,
    remove_index,
    rename_index,
    add_index_concurrently,
    remove_index_concurrently,
    add_constraint,
    remove_constraint,
    separate,
    run_python,
    run_python_bare,
    run_python_table,
    custom,
    run_sql,
    run_sql_setting,
    run_sql_maintenance,
    run_sql_index,
    run_sql_call,
)
