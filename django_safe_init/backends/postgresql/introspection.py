"""Introspection of PostgreSQL's catalog: one query for each kind of object."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import (
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

from django.contrib.postgres.operations import (
    AddIndexConcurrently,
    RemoveIndexConcurrently,
)
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.backends.postgresql.schema import DatabaseSchemaEditor
from django.db.migrations.operations.base import Operation

from django_safe_init.backends.base.introspection import (
    BaseIntrospection,
    Catalog,
    CatalogIssue,
    OperatorClass,
    Relation,
    TableIndex,
    TableKeys,
    TableName,
    UniqueIndex,
    collecting_editor,
)
from django_safe_init.backends.base.run_session import IndexCondition
from django_safe_init.backends.postgresql.connect import (
    create_direct_wrapper,
    retry_when_busy,
)
from django_safe_init.backends.postgresql.project_connection import plain_rows
from django_safe_init.backends.postgresql.session import Session
from django_safe_init.conf import Settings
from django_safe_init.core.findings import FindingKind
from django_safe_init.core.records import MIGRATION_TABLE
from django_safe_init.exceptions import MissingPrivilege

#: The server truncates longer names, counted in bytes.
_NAME_BYTES = 63
#: The longest encoding of one character.
_BYTES = 4
#: The bit of `pg_index.indoption` for descending order.
_DESCENDING = 1
_FEATURES = frozenset({"deferrable", "include", "index_methods", "pattern_indexes"})

_HAS_MIGRATIONS = """
    SELECT to_regclass(%(table)s) IS NOT NULL,
           has_table_privilege(to_regclass(%(table)s), 'SELECT'),
           quote_ident(current_user)
"""
_RECORDED = f"SELECT app || '.' || name FROM {MIGRATION_TABLE} ORDER BY id"
#: Tables, views and foreign tables. The columns are in the order of their numbers, NULL for a
#: dropped one. Among relations of one name, the first in the project's search path comes last.
_RELATIONS = """
    SELECT c.oid::bigint, n.nspname::text, c.relname::text,
      array_position(%(path)s::name[], n.nspname),
      c.relkind IN ('r', 'p') AND p.partexprs IS NULL,
      ARRAY(SELECT CASE WHEN NOT attisdropped THEN attname::text END FROM pg_attribute
            WHERE attrelid = c.oid AND attnum > 0 ORDER BY attnum),
      p.partattrs::text
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_partitioned_table p ON p.partrelid = c.oid
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
      AND c.relname = ANY(ARRAY(SELECT json_array_elements_text(%(names)s::json))::name[])
    ORDER BY 4 DESC
"""
_UNIQUES = """
    SELECT i.indrelid::bigint, c.relname::text, i.indkey::text, i.indnkeyatts,
      i.indpred IS NULL AND i.indexprs IS NULL, {nulls_equal}
    FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
    WHERE i.indisunique AND i.indrelid = ANY(%(tables)s::oid[])
"""
#: A text for each index and for each foreign key, because a schema has thousands of them: of a
#: usual index the numbers of its columns, after "+" if it is unique and "~" if it serves LIKE; of
#: a foreign key the numbers of its columns and of its target's columns, and the target's oid.
#: 403 is the oid of the method btree.
_KEYS = """
    SELECT i.indrelid::bigint, string_agg(CASE
      WHEN o.opcmethod <> 403 OR i.indpred IS NOT NULL OR i.indexprs IS NOT NULL
        OR i.indnkeyatts <> i.indnatts OR NOT i.indisvalid OR i.indoption[0] <> 0
        OR i.indnatts > 1 AND (btrim(i.indoption::text, ' 0') <> '' OR i.indclass::oid[] &&
          (SELECT array_agg(oid) FROM pg_opclass WHERE NOT opcdefault)) THEN NULL
      WHEN NOT o.opcdefault THEN CASE WHEN o.opcname = ANY(%(patterns)s::name[])
        THEN '~' || i.indkey::text END
      WHEN i.indisunique THEN '+' || i.indkey::text
      ELSE i.indkey::text END, ','), NULL
    FROM pg_index i JOIN pg_opclass o ON o.oid = i.indclass[0]
    WHERE i.indrelid = ANY(%(tables)s::oid[])
    GROUP BY i.indrelid
    UNION ALL
    SELECT conrelid::bigint, NULL,
      string_agg(conkey::text || confkey::text || confrelid::text, ' ')
    FROM pg_constraint WHERE contype = 'f' AND conrelid = ANY(%(tables)s::oid[])
    GROUP BY conrelid
"""
#: Leftovers of REINDEX CONCURRENTLY do not count.
_INDEXES = r"""
    SELECT i.indrelid::bigint, c.relname::text, i.indkey::text, i.indnkeyatts,
      i.indoption::text, m.amname::text, i.indpred IS NOT NULL,
      ARRAY(SELECT o.opcname::text FROM unnest(i.indclass::oid[]) WITH ORDINALITY AS k(oid, place)
        JOIN pg_opclass o ON o.oid = k.oid ORDER BY k.place),
      ARRAY(SELECT o.opcdefault FROM unnest(i.indclass::oid[]) WITH ORDINALITY AS k(oid, place)
        JOIN pg_opclass o ON o.oid = k.oid ORDER BY k.place)
    FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am m ON m.oid = c.relam
    WHERE i.indrelid = ANY(%(tables)s::oid[])
      AND (i.indisvalid OR c.relname !~ '_cc(new|old)\d*$')
"""
#: The operator classes for LIKE, in a literal of an array.
_PATTERNS = "{text_pattern_ops,varchar_pattern_ops,bpchar_pattern_ops}"
#: Every table has these columns, and a field may map to one.
_SYSTEM_COLUMNS = ("ctid", "xmin", "xmax", "cmin", "cmax", "tableoid")


def _is_visible(relation: str) -> str:
    """Return the SQL that tells if a name without a schema means the relation with this oid.

    The name is looked up on the project's search path, as `pg_table_is_visible` would there.
    """
    return f"""{relation} IN (
      SELECT DISTINCT ON (v.relname) v.oid
      FROM pg_class v JOIN pg_namespace w ON w.oid = v.relnamespace
      WHERE w.nspname = ANY(%(path)s::name[])
      ORDER BY v.relname, array_position(%(path)s::name[], w.nspname))"""


def _name_of(relation: str, schema: str) -> str:
    """Return the SQL for the relation's name, with its schema unless the name is visible."""
    return f"""CASE WHEN {_is_visible(f"{relation}.oid")} THEN '' ELSE
      quote_ident({schema}.nspname) || '.' END || quote_ident({relation}.relname)"""


#: PostgreSQL uses the indexes of the partitions, never the index of the partitioned table. That
#: one is valid, if it is unique, when each partition has its own index, and SQL cannot tell
#: which index that should be. A table whose indexes are being built has no broken index.
#: (`pg_stat_progress_create_index` hides the table from other roles; `pg_locks` shows it.) The
#: manual says to drop the leftovers of REINDEX CONCURRENTLY; the index of a constraint cannot
#: be dropped.
_INVALID_INDEXES = rf"""
    SELECT {_name_of("c", "n")},
      CASE WHEN c.relkind = 'I' THEN NULL WHEN c.relname ~ '_cc(new|old)\d*$'
           AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = i.indexrelid)
           THEN 'DROP' ELSE 'REINDEX' END
    FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE NOT i.indisvalid AND (c.relkind = 'i' OR i.indisunique)
      AND ({_is_visible("i.indrelid")} OR i.indrelid = ANY(%(tables)s::oid[]))
      AND NOT EXISTS (SELECT FROM pg_stat_progress_create_index p
                      JOIN pg_locks l ON l.pid = p.pid AND l.database = p.datid
                      WHERE l.relation = i.indrelid)
    ORDER BY 1
"""
#: Partitions and children are validated together with their parent. A constraint that is NOT
#: ENFORCED (PostgreSQL 18) is intentionally never valid.
_NOT_VALID = f"""
    SELECT {_name_of("t", "n")}, c.conname::text, quote_ident(c.conname)
    FROM pg_constraint c JOIN pg_class t ON t.oid = c.conrelid
    JOIN pg_namespace n ON n.oid = t.relnamespace
    WHERE NOT c.convalidated
      AND c.conparentid = 0 AND c.coninhcount = 0
      AND coalesce((to_jsonb(c) ->> 'conenforced')::boolean, true)
      AND ({_is_visible("c.conrelid")} OR c.conrelid = ANY(%(tables)s::oid[]))
    ORDER BY 1, 2
"""

#: Runs with the project's search path, which decides what is visible.
_EXISTING_INDEXES = """
    SELECT c.relname FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_index i ON i.indexrelid OPERATOR(pg_catalog.=) c.oid
    WHERE c.relname OPERATOR(pg_catalog.=) ANY(%s::pg_catalog.name[])
      AND pg_catalog.pg_table_is_visible(c.oid) AND (i.indisvalid OR NOT %s)
"""

#: An index, and the invalid copies that an interrupted `REINDEX CONCURRENTLY` leaves beside it
#: (PostgreSQL manual, REINDEX).
_INDEX_CONDITION = r"""
    SELECT pg_catalog.quote_ident(n.nspname) OPERATOR(pg_catalog.||) '.'
             OPERATOR(pg_catalog.||) pg_catalog.quote_ident(c.relname),
      c.oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass(%s), i.indisvalid
    FROM pg_catalog.pg_index i
    JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) i.indexrelid
    JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
    JOIN pg_catalog.pg_class own
      ON own.oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass(%s)
    JOIN pg_catalog.pg_index o ON o.indexrelid OPERATOR(pg_catalog.=) own.oid
    CROSS JOIN LATERAL pg_catalog.regexp_replace(
      c.relname::pg_catalog.text, '_cc(new|old)[0-9]*$', '') AS original
    WHERE c.oid OPERATOR(pg_catalog.=) own.oid
      OR (i.indrelid OPERATOR(pg_catalog.=) o.indrelid AND NOT i.indisvalid
          AND original OPERATOR(pg_catalog.<>) c.relname::pg_catalog.text
          AND (original OPERATOR(pg_catalog.=) own.relname::pg_catalog.text
               -- PostgreSQL shortens a long name before it adds the ending
               OR pg_catalog.octet_length(c.relname::pg_catalog.text)
                    OPERATOR(pg_catalog.>) 55
                  AND pg_catalog.starts_with(own.relname::pg_catalog.text, original)))
"""

Query = Callable[[str, Mapping[str, Any] | None], list[Any]]


class PostgresIntrospection(BaseIntrospection):
    """Introspection on a session of PostgreSQL.

    `query` is one of the session's methods that run a query.
    """

    def __init__(self, session: Session, settings: Settings, query: Query) -> None:
        self._session = session
        self._settings = settings
        self._query = query
        #: The tables of the last `catalog()`, as a literal of `oid[]`.
        self._tables = "{}"
        #: Of these tables, the columns by the table's oid, and the oids by their names.
        self._columns: dict[int, list[str]] = {}
        self._oids: dict[TableName, int] = {}

    def recorded_migrations(self) -> list[str]:
        self._session.locate_missing_tables()
        table = self._session.tables.existing(MIGRATION_TABLE)
        [(exists, readable, role)] = self._query(_HAS_MIGRATIONS, {"table": table})
        if exists and not readable:
            raise MissingPrivilege(
                f"This role may not read {table}, so nothing can be validated. "
                f"As its owner: GRANT SELECT ON {table} TO {role};"
            )
        return [name for (name,) in self._query(_RECORDED, None)] if exists else []

    def catalog(self, names: Iterable[TableName]) -> Catalog:
        # As JSON text: sending an array takes longer than the lookup of its tables.
        wanted = json.dumps([normalize_identifier(each.name) for each in names])
        self._session.locate_tables()  # a migration may have created a schema
        rows = self._query(_RELATIONS, {"names": wanted, **self._path})
        self._tables = _oid_array(row[0] for row in rows)
        self._columns, self._oids = {row[0]: row[5] for row in rows}, {}
        read_uniques = cache(partial(self._uniques, self._tables))
        relations: dict[TableName, Relation] = {}
        for oid, schema, name, position, indexable, columns, keys in rows:
            relation = Relation(
                frozenset((*columns, *_SYSTEM_COLUMNS)),
                _LazyUniques(read_uniques, oid, columns),
                indexable,
                _column_names(columns, (keys or "").split()),
            )
            names = [TableName(schema, name)]
            if position is not None:
                names.append(TableName(None, name))
            for each in names:
                relations[each], self._oids[each] = relation, oid
        return Catalog(relations, normalize_identifier, self._features)

    def _uniques(self, tables: str) -> dict[int, list[Any]]:
        nulls_equal = "i.indnullsnotdistinct" if self._has_nulls_distinct else "false"
        query = _UNIQUES.format(nulls_equal=nulls_equal)
        found: dict[int, list[Any]] = defaultdict(list)
        for table, *index in self._query(query, {"tables": tables}):
            found[table].append(index)
        return found

    def table_keys(self) -> dict[TableName, TableKeys]:
        texts: dict[int, list[str]] = {oid: ["", ""] for oid in self._columns}
        parameters = {"tables": self._tables, "patterns": _PATTERNS}
        for oid, indexes, foreign_keys in self._query(_KEYS, parameters):
            found = texts[oid]
            found[:] = indexes or found[0], foreign_keys or found[1]
        keys = {
            oid: PostgresTableKeys(oid, self._columns[oid], *each)
            for oid, each in texts.items()
        }
        return {name: keys[oid] for name, oid in self._oids.items()}

    def indexes(
        self, tables: Collection[TableName]
    ) -> dict[TableName, list[TableIndex]]:
        found: dict[int, list[TableIndex]] = {self._oids[name]: [] for name in tables}
        for oid, *index in self._query(_INDEXES, {"tables": _oid_array(found)}):
            found[oid].append(_table_index(self._columns[oid], *index))
        return {name: found[self._oids[name]] for name in tables}

    @property
    def _path(self) -> dict[str, Any]:
        return {"path": self._session.tables.schemas}

    @property
    def _has_nulls_distinct(self) -> bool:
        """Return True if the server supports NULLS NOT DISTINCT (PostgreSQL 15)."""
        return self._session.raw.info.server_version >= 150000

    @property
    def _features(self) -> frozenset[str]:
        return _FEATURES | {"nulls_distinct"} if self._has_nulls_distinct else _FEATURES

    def issues(self) -> Iterator[CatalogIssue]:
        parameters = {"tables": self._tables, **self._path}
        for index, verb in self._query(_INVALID_INDEXES, parameters):
            yield CatalogIssue(
                FindingKind.INVALID_INDEX,
                index,
                f"The index {index} is invalid."
                if verb
                else f"The index {index} is invalid: not every partition has its own.",
                f"{verb} INDEX CONCURRENTLY {index};" if verb else None,
            )
        for table, constraint, quoted in self._query(_NOT_VALID, parameters):
            yield CatalogIssue(
                FindingKind.NOT_VALID_CONSTRAINT,
                f"{table}.{constraint}",
                f"The constraint {constraint} of {table} was never checked for older rows.",
                f"ALTER TABLE {table} VALIDATE CONSTRAINT {quoted};",
            )

    def unblocked(self, statement: str, relation: Relation) -> tuple[str, ...]:
        if relation.partitioned_by:
            return (statement,)  # a partitioned table has none of these commands
        return unblocked(statement)

    @contextmanager
    def schema_editor(self) -> Iterator[BaseDatabaseSchemaEditor]:
        # Django's editor quotes values with a connection of Django, which is opened on demand.
        alias, settings = self._session.alias, self._settings
        wrapper = create_direct_wrapper(
            alias, settings.direct.get(alias), settings.connect_timeout
        )
        retry_when_busy(wrapper, lambda: settings.wait_timeout)
        try:
            yield collecting_editor(DatabaseSchemaEditor, wrapper)
        finally:
            wrapper.close()

    def close(self) -> None:
        self._session.close()


class PostgresTableKeys(TableKeys):
    """The keys of a table of PostgreSQL, in the texts of the query for them."""

    def __init__(
        self, oid: int, columns: list[str], indexes: str, foreign_keys: str
    ) -> None:
        self._oid = oid
        self._numbers = {name: str(place) for place, name in enumerate(columns, 1)}
        self._indexes = indexes.split(",")
        self._foreign_keys = foreign_keys.split()

    def has_index(self, columns: Sequence[str]) -> bool:
        key = " ".join([self._numbers[name] for name in columns])
        return key in self._indexes or f"+{key}" in self._indexes

    def has_pattern_index(self, column: str) -> bool:
        return f"~{self._numbers[column]}" in self._indexes

    def is_unique(self, columns: Sequence[str]) -> bool:
        return (
            "+" + " ".join([self._numbers[name] for name in columns]) in self._indexes
        )

    def references(
        self, column: str, target: PostgresTableKeys, target_column: str
    ) -> bool:
        pair = self._numbers[column], target._numbers[target_column]
        if f"{{{pair[0]}}}{{{pair[1]}}}{target._oid}" in self._foreign_keys:
            return True
        return any(
            pair in zip(columns.split(","), target_columns.split(","), strict=True)
            for columns, target_columns, oid in map(_parts, self._foreign_keys)
            if oid == str(target._oid)
        )


def _parts(foreign_key: str) -> tuple[str, str, str]:
    """Return the numbers of the columns and of the target's columns, and the target's oid."""
    columns, target_columns, oid = foreign_key.split("}")
    return columns[1:], target_columns[1:], oid


class _LazyUniques:
    """The unique indexes of a table. The first iteration reads the indexes of all tables."""

    def __init__(
        self,
        read: Callable[[], Mapping[int, list[Any]]],
        oid: int,
        columns: list[str],
    ) -> None:
        self._read = read
        self._oid = oid
        self._columns = columns

    def __iter__(self) -> Iterator[UniqueIndex]:
        for index in self._read()[self._oid]:
            yield _unique_index(self._columns, *index)


def _unique_index(
    columns: list[str], name: str, key: str, count: int, plain: bool, nulls_equal: bool
) -> UniqueIndex:
    keys = _column_names(columns, key.split()[:count])
    return UniqueIndex(name, keys, plain, nulls_equal)


def _table_index(
    columns: list[str],
    name: str,
    key: str,
    count: int,
    options: str,
    method: str,
    is_partial: bool,
    *operator_classes: list[Any],
) -> TableIndex:
    numbers = key.split()
    return TableIndex(
        name,
        tuple(
            None if each == "0" else columns[int(each) - 1] for each in numbers[:count]
        ),
        tuple(bool(int(each) & _DESCENDING) for each in options.split()),
        tuple(map(OperatorClass, *operator_classes)),
        method,
        _column_names(columns, numbers[count:]),
        is_partial,
    )


def _oid_array(oids: Iterable[int]) -> str:
    """Return the literal of an `oid[]`."""
    return f"{{{','.join(map(str, oids))}}}"


def _column_names(columns: list[str], numbers: list[str]) -> frozenset[str]:
    """Return the names of the columns with these numbers; 0 stands for an expression."""
    return frozenset([columns[int(each) - 1] for each in numbers if each != "0"])


def normalize_identifier(name: str) -> str:
    """Return the identifier truncated as PostgreSQL stores it."""
    if len(name) * _BYTES <= _NAME_BYTES:
        return name
    return name.encode()[:_NAME_BYTES].decode(errors="ignore")


_NAME = r'"(?:[^"]|"")+"'
_CREATE_INDEX = re.compile(r"CREATE (UNIQUE )?INDEX ")
_ADD_FOREIGN_KEY = re.compile(
    rf"(ALTER TABLE (?:{_NAME}\.)?{_NAME} )(ADD CONSTRAINT ({_NAME}) FOREIGN KEY .+);",
    re.DOTALL,
)
#: Not one that is checked later: an index would be checked at once.
_ADD_UNIQUE = re.compile(
    rf"(ALTER TABLE ((?:{_NAME}\.)?{_NAME}) ADD CONSTRAINT ({_NAME}) (?:UNIQUE|PRIMARY KEY))"
    r"( NULLS (?:NOT )?DISTINCT)? (\((?:[^()]|\"[()]+\")+\));"
)


def unblocked(statement: str) -> tuple[str, ...]:
    """Return statements that do the same and do not block writers for long."""
    if _CREATE_INDEX.match(statement):
        return (_CREATE_INDEX.sub(r"CREATE \1INDEX CONCURRENTLY ", statement, count=1),)
    if found := _ADD_FOREIGN_KEY.fullmatch(statement):
        table, constraint, name = found.groups()
        return (
            f"{table}{constraint} NOT VALID;",
            f"{table}VALIDATE CONSTRAINT {name};",
        )
    if found := _ADD_UNIQUE.fullmatch(statement):
        constraint, table, name, nulls, columns = found.groups()
        return (
            f"CREATE UNIQUE INDEX CONCURRENTLY {name} ON {table} {columns}{nulls or ''};",
            f"{constraint} USING INDEX {name};",
        )
    return (statement,)


def concurrent_index(operation: Operation) -> str | None:
    """Return the index that the operation adds or removes concurrently, or None."""
    if isinstance(operation, AddIndexConcurrently):
        return str(operation.index.name)
    if isinstance(operation, RemoveIndexConcurrently):
        return str(operation.name)
    return None


def index_condition(connection: BaseDatabaseWrapper, name: str) -> IndexCondition:
    """Return the condition of an index, whose name is quoted and may have a schema."""
    rows = plain_rows(connection, _INDEX_CONDITION, [name, name])
    leftovers = tuple(found for found, is_own, _ in rows if not is_own)
    own = [bool(is_valid) for _, is_own, is_valid in rows if is_own]
    return IndexCondition(bool(own), any(own), leftovers)


def existing_indexes(
    connection: BaseDatabaseWrapper, names: Sequence[str], *, valid: bool = False
) -> set[str]:
    """Return the names of existing indexes; with `valid`, only of usable ones."""
    if not names:
        return set()
    rows = plain_rows(connection, _EXISTING_INDEXES, [list(names), valid])
    return {name for (name,) in rows}


def drop_leftover(connection: BaseDatabaseWrapper, name: str) -> None:
    """Drop an index without blocking writers; its name is quoted and may have a schema."""
    with connection.cursor() as cursor:
        cursor.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")


def drop_index(connection: BaseDatabaseWrapper, name: str) -> None:
    """Drop the index without blocking writers of its table."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"DROP INDEX CONCURRENTLY IF EXISTS {connection.ops.quote_name(name)}"
        )
