"""Find the tables on the search path of the project's connections."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from django_safe_init.core.records import (
    MIGRATION_TABLE,
    OPERATION_TABLE,
    RUN_TABLE,
    STEP_TABLE,
)
from django_safe_init.core.schemas import SCHEMA_TABLE

#: Matches the tables' names in this package's SQL that have no schema. Parameters are not part
#: of it.
_NAMES = re.compile(
    rf'(?<!\.)(?<!\.")"?\b({MIGRATION_TABLE}|{OPERATION_TABLE}|{RUN_TABLE}|{SCHEMA_TABLE}|{STEP_TABLE})\b"?'
)
#: A quoted name, with or without a schema.
_QUOTED = re.compile(r'(?:"(?P<schema>.+)"\.)?"(?P<name>.+)"')


def _first_schema(parameter: str) -> str:
    """Return the query for the first schema of the search path with a table of this name.

    Temporary tables do not count. It runs with the project's search path, so it qualifies
    every name.
    """
    return f"""(
    SELECT pg_catalog.quote_ident(n.nspname)
    FROM pg_catalog.unnest(pg_catalog.current_schemas(false))
      WITH ORDINALITY AS path(name, place)
    JOIN pg_catalog.pg_namespace n ON n.nspname OPERATOR(pg_catalog.=) path.name
    JOIN pg_catalog.pg_class c ON c.relnamespace OPERATOR(pg_catalog.=) n.oid
    WHERE c.relname OPERATOR(pg_catalog.=) %({parameter})s::pg_catalog.name
      AND c.relpersistence OPERATOR(pg_catalog.<>) 't'::pg_catalog."char"
    ORDER BY path.place LIMIT 1)"""


#: The fields of `TableLocations` after the first.
LOCATE_TABLES = f"""
    SELECT pg_catalog.current_setting('search_path'),
      pg_catalog.current_schemas(true), pg_catalog.quote_ident(pg_catalog.current_schema()),
      {_first_schema("migrations")}, {_first_schema("runs")}
"""


def _schema_of(parameter: str) -> str:
    """Return an expression for the schema of a table, which costs less than a query.

    The class of `pg_class` has the oid 1259.
    """
    name = f"pg_catalog.to_regclass(pg_catalog.quote_ident(%({parameter})s))"
    return f"(pg_catalog.pg_identify_object(1259, {name}, 0)).schema"


#: The same fields, at a third of the cost. A temporary table hides another table of its name.
LOCATE_TABLES_FAST = f"""
    SELECT pg_catalog.current_setting('search_path'),
      pg_catalog.current_schemas(true), pg_catalog.quote_ident(pg_catalog.current_schema()),
      {_schema_of("migrations")}, {_schema_of("runs")}
"""


def locate_params(migrations: str) -> dict[str, Any]:
    """Return the parameters of both queries; `migrations` is Django's quoted name."""
    found = _QUOTED.fullmatch(migrations)
    name = found["name"] if found else migrations
    return {"migrations": name, "runs": RUN_TABLE}


@dataclass(frozen=True)
class TableLocations:
    """The schemas of Django's migration table and of the status tables. All names are quoted."""

    #: The name of Django's table in Django's SQL, which may contain a schema.
    migrations: str
    #: The search path of the project's connections, in the server's notation.
    search_path: str
    #: The existing schemas of the path, including `pg_catalog`; not quoted.
    schemas: list[str]
    #: The schema in which a new table is created; None if no schema of the path exists.
    default_schema: str | None
    _migration_schema: str | None
    _run_schema: str | None

    @property
    def migration_table(self) -> str | None:
        """Return the qualified name of Django's table; None if it does not exist."""
        found = _QUOTED.fullmatch(self.migrations)
        if found and found["schema"]:
            return self.migrations
        if self._migration_schema is None:
            return None
        is_default = self.migrations == f'"{MIGRATION_TABLE}"'
        name = MIGRATION_TABLE if is_default else self.migrations
        return f"{self._migration_schema}.{name}"

    @property
    def has_temporary(self) -> bool:
        """Return True if a temporary table was found."""
        schemas = (self._migration_schema or "", self._run_schema or "")
        return any(schema.startswith("pg_temp") for schema in schemas)

    @property
    def has_runs(self) -> bool:
        """Return True if the search found the table of runs."""
        return self._run_schema is not None

    @property
    def status_schema(self) -> str | None:
        """Return the schema of the status tables, or the one to create them in."""
        return self._run_schema or self.default_schema

    def qualified(self, table: str) -> str | None:
        """Return the qualified name of a table; None if its schema is unknown."""
        if table == MIGRATION_TABLE:
            return self.migration_table
        schema = self.status_schema
        return None if schema is None else f"{schema}.{table}"

    def existing(self, table: str) -> str | None:
        """Return the qualified name of a table; None if the search did not find it."""
        if table != MIGRATION_TABLE and not self.has_runs:
            return None
        return self.qualified(table)

    def qualify(self, statement: str, *, has_params: bool) -> str:
        """Return the statement with the qualified names of the tables.

        A name without a schema stays, and PostgreSQL reports that table as missing.
        """
        percent = "%%" if has_params else "%"

        def name_of(found: re.Match[str]) -> str:
            table = found[1]
            bare = self.migrations if table == MIGRATION_TABLE else table
            return (self.qualified(table) or bare).replace("%", percent)

        return _NAMES.sub(name_of, statement)
