"""PostgreSQL's catalogue, for validation: one query for each kind of thing."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from django.db.backends.base.schema import BaseDatabaseSchemaEditor

from django_safe_init.backends.base.introspection import (
    Catalog,
    CatalogIssue,
    Relation,
    TableName,
    UniqueIndex,
    collecting_editor,
)
from django_safe_init.backends.postgresql.session import (
    Session,
    create_direct_wrapper,
    retry_when_busy,
)
from django_safe_init.conf import Settings
from django_safe_init.core.findings import FindingKind
from django_safe_init.exceptions import MissingPrivilege

#: Longer names are cut off by the server, in bytes.
_NAME_BYTES = 63
#: So many at most make a character.
_BYTES = 4
_ABILITIES = frozenset({"deferrable", "include"})

_HAS_MIGRATIONS = """
    SELECT to_regclass('django_migrations') IS NOT NULL,
           has_table_privilege(to_regclass('django_migrations'), 'SELECT'),
           quote_ident(current_user)
"""
_RECORDED = "SELECT app || '.' || name FROM django_migrations ORDER BY id"
#: Tables, and what may stand in for one; the columns by their numbers, NULL for a dropped one.
#: Of one name, that comes last which the search path finds (`pg_table_is_visible` looks each up).
_RELATIONS = """
    SELECT c.oid::bigint, n.nspname::text, c.relname::text,
      array_position(current_schemas(true), n.nspname),
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
#: Every table has them, and a field may stand for one.
_SYSTEM_COLUMNS = ("ctid", "xmin", "xmax", "cmin", "cmax", "tableoid")
#: An index over partitions is not used itself, those of the partitions are; a unique one is valid
#: when each of them has its own, and SQL alone cannot say which it should be. On a table whose
#: indexes are being built at this moment nothing is broken (what is built, and where, another role
#: may not see: the locks are everybody's). What REINDEX CONCURRENTLY has left is to be dropped,
#: says the manual; a constraint's index cannot be.
_INVALID_INDEXES = r"""
    SELECT i.indexrelid::regclass::text,
      CASE WHEN c.relkind = 'I' THEN NULL WHEN c.relname ~ '_cc(new|old)\d*$'
           AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = i.indexrelid)
           THEN 'DROP' ELSE 'REINDEX' END
    FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
    WHERE NOT i.indisvalid AND (c.relkind = 'i' OR i.indisunique)
      AND (pg_table_is_visible(i.indrelid) OR i.indrelid = ANY(%(tables)s::oid[]))
      AND NOT EXISTS (SELECT FROM pg_stat_progress_create_index p
                      JOIN pg_locks l ON l.pid = p.pid AND l.database = p.datid
                      WHERE l.relation = i.indrelid)
    ORDER BY 1
"""
#: Those of partitions and children are validated with their parent's; what is NOT ENFORCED
#: (PostgreSQL 18) is never valid, on purpose.
_NOT_VALID = """
    SELECT c.conrelid::regclass::text, c.conname::text, quote_ident(c.conname)
    FROM pg_constraint c
    WHERE NOT c.convalidated AND c.conrelid <> 0
      AND c.conparentid = 0 AND c.coninhcount = 0
      AND coalesce((to_jsonb(c) ->> 'conenforced')::boolean, true)
      AND (pg_table_is_visible(c.conrelid) OR c.conrelid = ANY(%(tables)s::oid[]))
    ORDER BY 1, 2
"""

Query = Callable[[str, Mapping[str, Any] | None], list[Any]]


class PostgresIntrospection:
    """See `engines.base.Inspector`. `query` is one of the session's ways to read."""

    def __init__(self, session: Session, settings: Settings, query: Query) -> None:
        self._session = session
        self._settings = settings
        self._query = query
        self._tables = "{}"

    def recorded(self) -> list[str]:
        """The migrations that are recorded, in their order."""
        [(recorded, readable, role)] = self._query(_HAS_MIGRATIONS, None)
        if recorded and not readable:
            raise MissingPrivilege(
                "This role may not read django_migrations, so nothing can be validated. "
                f"As its owner: GRANT SELECT ON django_migrations TO {role};"
            )
        return [name for (name,) in self._query(_RECORDED, None)] if recorded else []

    def catalogue(self, names: Iterable[TableName]) -> Catalog:
        """What there is of these tables."""
        # As text, because to write an array costs more than to look its tables up.
        wanted = {"names": json.dumps([stored(name.name) for name in names])}
        rows = self._query(_RELATIONS, wanted)
        self._tables = f"{{{','.join(str(row[0]) for row in rows)}}}"
        uniques = self._uniques()
        relations: dict[TableName, Relation] = {}
        for oid, schema, name, position, indexable, columns, keys in rows:
            relation = Relation(
                frozenset((*columns, *_SYSTEM_COLUMNS)),
                tuple(_unique(columns, *index) for index in uniques[oid]),
                indexable,
                _named(columns, (keys or "").split()),
            )
            relations[TableName(schema, name)] = relation
            if position is not None:
                relations[TableName(None, name)] = relation
        return Catalog(relations, stored, self._abilities)

    def _uniques(self) -> dict[int, list[Any]]:
        nulls_equal = "i.indnullsnotdistinct" if self._knows_nulls else "false"
        query = _UNIQUES.format(nulls_equal=nulls_equal)
        found: dict[int, list[Any]] = defaultdict(list)
        for table, *index in self._query(query, {"tables": self._tables}):
            found[table].append(index)
        return found

    @property
    def _knows_nulls(self) -> bool:
        """Whether the server can be told that NULLs are equal: since PostgreSQL 15."""
        return self._session.raw.info.server_version >= 150000

    @property
    def _abilities(self) -> frozenset[str]:
        return _ABILITIES | {"nulls_distinct"} if self._knows_nulls else _ABILITIES

    def defects(self) -> Iterator[CatalogIssue]:
        """What the server itself calls unfinished, in the search path and the tables above."""
        known = {"tables": self._tables}
        for index, verb in self._query(_INVALID_INDEXES, known):
            yield CatalogIssue(
                FindingKind.INVALID_INDEX,
                index,
                f"The index {index} is invalid."
                if verb
                else f"The index {index} is invalid: not every partition has its own.",
                f"{verb} INDEX CONCURRENTLY {index};" if verb else None,
            )
        for table, constraint, quoted in self._query(_NOT_VALID, known):
            yield CatalogIssue(
                FindingKind.NOT_VALID_CONSTRAINT,
                f"{table}.{constraint}",
                f"The constraint {constraint} of {table} was never checked for older rows.",
                f"ALTER TABLE {table} VALIDATE CONSTRAINT {quoted};",
            )

    @contextmanager
    def editor(self) -> Iterator[BaseDatabaseSchemaEditor]:
        """A schema editor that writes SQL, on a connection of its own if it needs one."""
        alias, settings = self._session.alias, self._settings
        wrapper = create_direct_wrapper(
            alias, settings.direct.get(alias), settings.connect_timeout
        )
        retry_when_busy(wrapper, settings.wait_timeout)
        try:
            yield collecting_editor(wrapper.SchemaEditorClass, wrapper)
        finally:
            wrapper.close()

    def close(self) -> None:
        """End the session."""
        self._session.close()


def _unique(
    columns: list[str], name: str, key: str, count: int, plain: bool, nulls_equal: bool
) -> UniqueIndex:
    named = _named(columns, key.split()[:count])
    return UniqueIndex(name, named, plain, nulls_equal)


def _named(columns: list[str], numbers: list[str]) -> frozenset[str]:
    """The columns of these numbers; that of an expression is 0."""
    return frozenset([columns[int(each) - 1] for each in numbers if each != "0"])


def stored(name: str) -> str:
    """The name as the server keeps it."""
    if len(name) * _BYTES <= _NAME_BYTES:
        return name
    return name.encode()[:_NAME_BYTES].decode(errors="ignore")
