"""Functions, operators and types that a hostile role creates under the names of PostgreSQL's own.

Each one warns in the server's log, and returns the real result. The names are those in the
SQL of this package.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import django_safe_init
from example_project.embedded import EmbeddedServer
from tests.support import Database

PACKAGE = Path(django_safe_init.__file__).parent
#: The modules with SQL for PostgreSQL.
MODULES = [
    *sorted((PACKAGE / "backends/postgresql").glob("*.py")),
    *sorted((PACKAGE / "privileged").glob("*.py")),
    PACKAGE / "backends/base/statements.py",
    PACKAGE / "backends/base/transaction.py",
    PACKAGE / "pools/postgresql.py",
]
_CALL = re.compile(r"\b([a-z_][a-z0-9_]*)\s*\(")
_CAST = re.compile(r'::(?:pg_catalog\.)?"?([a-z_][a-z0-9_]*)')
_OPERATOR = re.compile(r"[-+*/<>=~!@#%^&|`?]+")

#: The functions whose arguments and result a function in SQL can have.
_FUNCTIONS = """
    SELECT p.oid::int8 AS oid, p.proname AS name, p.proretset AS retset,
      format_type(p.prorettype, NULL) AS result,
      ARRAY(SELECT format_type(t, NULL)
            FROM unnest(p.proargtypes) WITH ORDINALITY AS u(t, i) ORDER BY i) AS arguments
    FROM pg_proc p WHERE p.pronamespace = 'pg_catalog'::regnamespace
      AND p.prokind = 'f' AND p.provariadic = 0 AND p.proname = ANY(%s)
      AND p.proargmodes IS NULL AND p.prorettype <> 'trigger'::regtype
"""
_OPERATORS = """
    SELECT oprname AS name, format_type(oprleft, NULL) AS lefts,
      format_type(oprright, NULL) AS rights, format_type(oprresult, NULL) AS result,
      oprleft = 0 AS is_prefix
    FROM pg_operator WHERE oprname = ANY(%s) AND oprcode <> 0
"""
#: The types for which an operator or function of another type is used, so that one with this
#: type is a better match.
_CLOSER = {
    "text": ["character varying", "name"],
    "name": ["text", "character varying"],
    "oid": ["integer", "bigint", "regclass"],
    "regclass": ["oid", "text"],
    "bigint": ["integer", "smallint"],
    "double precision": ["numeric", "integer"],
    "regtype": ["text"],
    "regnamespace": ["oid"],
}


def texts() -> Iterator[str]:
    """Yield the strings of the modules with SQL."""
    for module in MODULES:
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def names_in_sql() -> tuple[list[str], list[str]]:
    """Return the names before a parenthesis, and the sequences of operator characters."""
    found = list(texts())
    calls = {name for text in found for name in _CALL.findall(text)}
    operators = {name for text in found for name in _OPERATOR.findall(text)}
    return sorted(calls), sorted(operators)


def types_in_sql() -> set[str]:
    """Return the names of types to which the SQL casts."""
    return {name for text in texts() for name in _CAST.findall(text)}


def _create_type(database: Database, name: str) -> bool:
    """Create a domain whose check warns."""
    function = f"type_{name}"
    answer = "RETURN true"
    base = f'pg_catalog."{name}"'
    return _create(
        database, _definition(function, [base], "boolean", answer)
    ) and _create(
        database,
        f'CREATE DOMAIN public."{name}" AS {base} CHECK (public.{function}(VALUE))',
    )


def plant(database: Database) -> tuple[int, int]:
    """Create the objects in `public`; return how many functions and operators."""
    calls, operators = names_in_sql()
    functions = [
        statement
        for row in database.rows(_FUNCTIONS, calls)
        for arguments in _variants(row["arguments"])
        for statement in [_function(row, arguments)]
    ]
    made = sum(_create(database, each) for each in functions)
    assert sum(_create_type(database, each) for each in types_in_sql()) > 5
    return made, sum(
        _create_operator(database, row, left, right)
        for row in database.rows(_OPERATORS, operators)
        for left, right in _variants([row["lefts"], row["rights"]])
    )


def _variants(arguments: list[str]) -> Iterator[list[str]]:
    """Yield the argument types, and others that match some calls better."""
    yield arguments
    for index, kind in enumerate(arguments):
        for other in _CLOSER.get(kind, ()):
            yield [*arguments[:index], other, *arguments[index + 1 :]]
    closer = [_CLOSER.get(kind, [kind])[0] for kind in arguments]
    if closer != arguments:
        yield closer


def _function(row: dict[str, Any], arguments: list[str]) -> str:
    passed = ", ".join(f"${i + 1}::{kind}" for i, kind in enumerate(row["arguments"]))
    call = f"pg_catalog.{row['name']}({passed})"
    answer = f"RETURN QUERY SELECT {call}" if row["retset"] else f"RETURN {call}"
    if row["result"] == "void":
        answer = f"PERFORM {call}"
    setof = "SETOF " if row["retset"] else ""
    return _definition(row["name"], arguments, f"{setof}{row['result']}", answer)


def _definition(name: str, arguments: list[str], result: str, answer: str) -> str:
    return (
        f'CREATE FUNCTION public."{name}"({", ".join(arguments)}) RETURNS {result}'
        " LANGUAGE plpgsql SET search_path = pg_catalog AS $$ BEGIN"
        f" RAISE LOG 'planted: {name.replace('%', '%%')} in %',"
        " replace(current_query(), chr(10), ' ');"
        f" {answer}; END $$"
    )


def _create(database: Database, statement: str) -> bool:
    """Create an object, unless PostgreSQL has no such objects."""
    block = statement.replace("'", "''")
    return bool(database.value(f"SELECT public.try_to('{block}')"))


def _create_operator(
    database: Database, row: dict[str, Any], left: str, right: str
) -> bool:
    kinds = [right] if row["is_prefix"] else [left, right]
    originals = [row["rights"]] if row["is_prefix"] else [row["lefts"], row["rights"]]
    sides = [f"${i + 1}::{kind}" for i, kind in enumerate(originals)]
    operator = f" OPERATOR(pg_catalog.{row['name']}) "
    call = operator.join(["", *sides] if row["is_prefix"] else sides)
    function = "operator_" + "_".join(f"{ord(c):x}" for c in row["name"])
    created = _create(
        database, _definition(function, kinds, row["result"], f"RETURN ({call})")
    )
    names = ["RIGHTARG"] if row["is_prefix"] else ["LEFTARG", "RIGHTARG"]
    arguments = ", ".join(f"{n} = {k}" for n, k in zip(names, kinds, strict=True))
    return created and _create(
        database,
        f"CREATE OPERATOR public.{row['name']}"
        f" (FUNCTION = public.{function}, {arguments})",
    )


TRY = """
    CREATE FUNCTION public.try_to(statement text) RETURNS boolean LANGUAGE plpgsql AS $$
    BEGIN EXECUTE statement; RETURN true;
    EXCEPTION WHEN OTHERS THEN RETURN false; END $$
"""


def called(server: EmbeddedServer, of_django: list[str]) -> list[str]:
    """Return the calls of planted objects by statements of this package."""
    lines = server.log.read_text(errors="replace").splitlines()
    found = []
    for line in lines:
        _, is_call, rest = line.partition("planted: ")
        name, _, query = rest.partition(" in ")
        query = " ".join(query.split())
        if is_call and not any(each and query.startswith(each) for each in of_django):
            found.append(f"{name}: {query[:300]}")
    return sorted(set(found))
