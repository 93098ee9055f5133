"""Bring the schemas of all tenants, or of some, to this build: the leader's side."""

from __future__ import annotations

import logging
import re
import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from django.core.exceptions import FieldError
from django.db.migrations.exceptions import InconsistentMigrationHistory
from django.utils.module_loading import import_string

from django_safe_init.backends import open_schemas
from django_safe_init.backends.base.context import Context
from django_safe_init.backends.base.run_session import RunSession
from django_safe_init.backends.base.schema_session import SchemaResult
from django_safe_init.backends.tenants import Tenancy, Tenant
from django_safe_init.core.cancellation import sleep
from django_safe_init.core.deadline import Deadline
from django_safe_init.core.records import TablesLocked
from django_safe_init.core.schemas import FoundSchema, SchemaProgress
from django_safe_init.core.states import State
from django_safe_init.core.text import (
    Hint,
    first_line,
    name_some,
    printable,
    printable_hint,
    wrap,
)
from django_safe_init.exceptions import ConfigurationError, SchemasFailed
from django_safe_init.initialization.schemas.names import unknown_schemas
from django_safe_init.initialization.schemas.plans import Planner
from django_safe_init.initialization.schemas.pool import Pool, WorkerDied, opened_pool
from django_safe_init.initialization.schemas.receivers import receivers_digest
from django_safe_init.initialization.schemas.worker import SchemaWorker
from django_safe_init.initialization.types import MigrateTask

logger = logging.getLogger("django_safe_init")

#: A schema is given to another worker so often after the worker that had it has died.
_MAX_DEATHS = 2
#: Between two attempts to get the key of a schema.
_SECONDS_BETWEEN_ATTEMPTS = 0.2
#: The values that an error quotes, its detail, and numbers.
_VALUES = re.compile(
    r"=\s*\([^)]*\)|\bDETAIL:.*|\bCONTEXT:.*|\"[^\"]*\"|'[^']*'|\d+", re.DOTALL
)
#: The longest time from the row of a new tenant to its schema. A run that created the schema in
#: between would take it from its creator.
_SECONDS_OF_CREATION = 2.0
#: The failed schemas that an error names.
_NAMED_FAILURES = 5


#: The way in which a schema has failed: its migration, and the error without values.
_Way = tuple[str | None, str]


@dataclass
class _Failures:
    """The failed schemas, and how many failed in a row in the same way."""

    limit: int
    results: list[SchemaResult] = field(default_factory=list)
    in_a_row: int = 0
    _last: _Way | None = None
    _known: set[_Way] = field(default_factory=set)

    def add(self, result: SchemaResult) -> bool:
        """Add the failure, and return True if no other schema has failed in this way."""
        self.results.append(result)
        way = _way_of(result)
        self.in_a_row = self.in_a_row + 1 if way == self._last else 1
        self._last = way
        is_new = way not in self._known
        self._known.add(way)
        return is_new

    def note_success(self) -> None:
        self.in_a_row, self._last = 0, None

    @property
    def is_systematic(self) -> bool:
        """True if the migration is at fault, and not the tenants."""
        return self.in_a_row >= self.limit


def _way_of(result: SchemaResult) -> _Way:
    """Return the migration, and its error without what differs from schema to schema."""
    text = (result.error or "").removeprefix(f"{result.migration}: ")
    text = re.sub(rf"(?<!\w){re.escape(result.schema)}(?!\w)", "", text)
    return result.migration, _VALUES.sub("", text)


class _Queue:
    """The schemas that no worker has yet, in order."""

    def __init__(self, tenants: Sequence[Tenant], patience: Deadline) -> None:
        self.waiting = deque(tenants)
        #: The schemas whose key another session has.
        self.postponed: deque[Tenant] = deque()
        #: The number of workers that died with the schema.
        self.deaths: Counter[Tenant] = Counter()
        #: The limit of all waiting for keys.
        self.patience = patience

    def clear(self) -> int:
        """Drop all schemas, and return their number."""
        count = len(self.waiting) + len(self.postponed)
        self.waiting.clear()
        self.postponed.clear()
        return count

    def retry(self) -> None:
        """Put the postponed schemas back into the queue."""
        self.waiting.extend(self.postponed)
        self.postponed.clear()


class SchemaRun:
    """One run in the schemas of tenants, under the leader lock.

    The shared schema is done before. One schema that fails does not stop the others.
    """

    def __init__(
        self,
        context: Context,
        session: RunSession,
        tenancy: Tenancy,
        task: MigrateTask,
    ) -> None:
        self.context = context
        self.session = session
        self.recorder = session.recorder
        self.tenancy = tenancy
        self.task = task
        self.options = task.schemas
        self.report = task.report
        self.schemas = open_schemas(session, context.alias, tenancy)
        self._failures = _Failures(context.settings.tenant_failures)
        #: The number of schemas that this run has migrated.
        self.migrated = 0
        self._stopped = ""
        #: The schemas that are migrated before the others.
        self._canaries: set[str] = set()
        self._done = 0
        self._missing: list[str] = []
        self._untried = 0
        self._total = 0
        self._published = 0.0

    @property
    def _is_whole(self) -> bool:
        return self.options.only is None and self.options.migrate is None

    def run(self) -> None:
        """Migrate the schemas. Raises `SchemasFailed`, and `LockLost` if leadership was lost."""
        receivers = receivers_digest(
            self.context.alias, self.context.build, self.context.settings
        )
        first = self._find(receivers, force=self.options.force)
        self._count([each for each in first if each.is_due])
        seen = self._migrate_found(first, receivers)
        # A replica of an older build may have created tenants since.
        while self._is_whole and not self._stopped:
            found = self._find(receivers, force=False)
            new = [each for each in found if each.schema not in seen]
            if not new:
                break
            self._total += sum(each.is_due for each in new)
            seen |= self._migrate_found(new, receivers)
        if self._is_whole:
            self.schemas.prune()
        self._report_missing()
        self._raise_failures()

    def _migrate_found(self, found: Sequence[FoundSchema], receivers: str) -> set[str]:
        """Migrate the schemas, and return the names of all that were found."""
        self._missing += [each.schema for each in found if not each.is_due]
        seen_at = time.monotonic()
        work = [each for each in found if each.is_due]
        if work:
            self.schemas.plan(work)
        static = {tenant.schema for tenant in self.tenancy.static_tenants}
        young = [each for each in work if not each.exists and each.schema not in static]
        self._work([each for each in work if each not in young], receivers)
        if self._stopped:
            self._untried += len(young)
        elif young:
            # A tenant that is being created has its row before its schema.
            sleep(max(0.0, seen_at + _SECONDS_OF_CREATION - time.monotonic()))
            self._work(young, receivers)
        return {each.schema for each in found}

    def _count(self, work: Sequence[FoundSchema]) -> None:
        """Count all schemas, and publish their number."""
        self._total = len(work)
        if self._is_whole:
            self._total = sum(each.is_due for each in self.schemas.all())
        self._done = self._total - len(work)
        self._publish()

    def _find(self, receivers: str, *, force: bool) -> list[FoundSchema]:
        """Return the schemas to migrate, in order, and remember the schemas that need nothing."""
        if not self._is_whole:
            found = self.schemas.all()
            if self.options.only is not None:
                found = self._chosen(found, self.options.only)
            return self._ordered(found)
        stale = self.schemas.all() if force else self.schemas.stale(None)
        complete = self.schemas.complete(stale)
        lacking = {each.schema: each for each in stale if each.schema not in complete}
        self.schemas.remember([each for each in stale if each.schema in complete], None)
        # The complete ones may lack what the receivers create.
        named = {each.schema: each for each in self.schemas.stale(receivers)}
        return self._ordered(self._with_unfinished(list({**named, **lacking}.values())))

    def _with_unfinished(self, found: list[FoundSchema]) -> list[FoundSchema]:
        """Add the schemas in which a recorded migration lacks some of its operations."""
        names = self.schemas.unfinished() - {each.schema for each in found}
        if not names:
            return found
        return found + [each for each in self.schemas.all() if each.schema in names]

    def _chosen(
        self, found: Sequence[FoundSchema], names: Iterable[str]
    ) -> list[FoundSchema]:
        known = {each.schema: each for each in found}
        unknown = [name for name in names if name not in known]
        if unknown:
            raise unknown_schemas(self.context.alias, unknown)
        chosen = [known[name] for name in names]
        gone = [each.schema for each in chosen if not each.is_due]
        if gone:
            raise ConfigurationError(
                f"The schema {name_some(gone)} does not exist. Create it with "
                f"{self.tenancy.package}, or delete its tenant."
            )
        return chosen

    def _ordered(self, found: list[FoundSchema]) -> list[FoundSchema]:
        """Return the schemas in order, at the end those in which the last attempt failed.

        A few schemas with a defect of their own must not stop each run before the others. The
        canaries are chosen among all schemas: a canary that needs nothing stays one, and no other
        schema takes the place of a failed canary.
        """
        place = {name: number for number, name in enumerate(self._order() or ())}
        failed, last = self.schemas.failed(), len(place)

        def key(each: FoundSchema) -> tuple[int, str]:
            return place.get(each.schema, last), each.schema

        if self.options.canary:
            due = found if self.options.only else self.schemas.all()
            first = sorted((each for each in due if each.is_due), key=key)
            self._canaries = {each.schema for each in first[: self.options.canary]}
        return sorted(
            found,
            key=lambda each: (
                each.schema not in self._canaries,
                each.schema in failed - self._canaries,
                *key(each),
            ),
        )

    def _order(self) -> list[str] | None:
        """Return the names of schemas in the order of the settings; None without an order."""
        setting = self.context.settings.tenant_order
        if setting is not None and "." in setting:
            return self._order_by_function(setting)
        fields = [setting] if setting else list(self.tenancy.default_order)
        tenants = self.tenancy.tenants
        if not fields or tenants is None:
            return None
        with (
            self.session.connections() as connection,
            self.tenancy.active(connection, Tenant(self.tenancy.shared_schema)),
        ):
            try:
                ordered = tenants.using(self.context.alias).order_by(*fields)
                return list(ordered.values_list(self.tenancy.fields[0], flat=True))
            except FieldError as exc:
                raise self._wrong_order(str(exc)) from exc

    def _order_by_function(self, path: str) -> list[str]:
        try:
            function = import_string(path)
        except ImportError as exc:
            raise self._wrong_order(str(exc)) from exc
        if not callable(function):
            raise self._wrong_order(f"a {type(function).__name__} is no function")
        names = sorted(each.schema for each in self.schemas.all())
        with (
            self.session.connections() as connection,
            self.tenancy.active(connection, Tenant(self.tenancy.shared_schema)),
        ):
            try:
                return [str(name) for name in function(names)]
            except (Exception, SystemExit) as exc:
                logger.error(
                    "%s: TENANT_ORDER failed", self.context.alias, exc_info=exc
                )
                raise self._wrong_order(
                    f"with {len(names)} names it raised {type(exc).__name__}: {exc}"
                ) from exc

    def _wrong_order(self, reason: str) -> ConfigurationError:
        return ConfigurationError(
            f"SAFE_INIT['TENANT_ORDER'] is {self.context.settings.tenant_order!r}: {reason}. "
            "Name a field of the tenant model, or the dotted path of a function that gets the "
            "names of the schemas and returns them in order."
        )

    # Work

    def _work(self, schemas: Sequence[FoundSchema], receivers: str) -> None:
        if not schemas:
            return
        tenants = [Tenant(each.schema, each.kind) for each in schemas]
        planner = Planner(self.context.alias)
        unfinished = frozenset(self.schemas.unfinished())
        jobs = self._jobs(len(tenants))
        # The evidence of progress in the journals of schemas is deleted when the run ends well.
        self.recorder.used_journal = True
        if jobs > 1:
            self._prepare(planner, tenants)
            # Created here, because the workers would create it at the same time.
            self.session.ensure_journal()

        def make_worker(forked: bool) -> SchemaWorker:
            return SchemaWorker(
                self.context,
                self.tenancy,
                self.schemas.worker(forked=forked),
                planner,
                self.task,
                receivers,
                unfinished,
            )

        with opened_pool(jobs, make_worker) as pool:
            canaries = [each for each in tenants if each.schema in self._canaries]
            if canaries:
                self._migrate(pool, canaries)
                if self._failures.results:
                    self._stop("a canary failed")
                    self._untried += len(tenants) - len(canaries)
                    return
            others = [each for each in tenants if each.schema not in self._canaries]
            self._migrate(pool, others)

    def _jobs(self, schemas: int) -> int:
        """Return the number of processes, as many as get their connections."""
        jobs = min(self.options.jobs, schemas)
        limit = self.schemas.max_workers() if jobs > 1 else None
        if limit is None or jobs <= limit:
            return jobs
        self.report(
            f"The server has connections for {limit} of {jobs} processes. Raise the limit of the "
            "role, of the database or of the server, or set --jobs lower."
        )
        return max(1, limit)

    def _prepare(self, planner: Planner, tenants: Sequence[Tenant]) -> None:
        """Load the graph, and the states of the first schema, before processes are forked."""
        first = {tenant.kind: tenant.schema for tenant in reversed(tenants)}
        for kind, schema in first.items():
            # The worker of the schema meets the error again.
            with suppress(InconsistentMigrationHistory, TablesLocked):
                planner.plan(kind, self.schemas.records(schema))

    def _migrate(self, pool: Pool, tenants: Sequence[Tenant]) -> None:
        queue = _Queue(tenants, Deadline(self.context.settings.wait_timeout))
        while queue.waiting or queue.postponed or pool.busy:
            if self._stopped:
                self._untried += queue.clear()
            while pool.has_room() and queue.waiting:
                pool.submit(queue.waiting.popleft())
            if pool.busy:
                self._take(*pool.next(), queue)
            elif queue.postponed:
                self._wait_for_keys(queue)

    def _take(
        self, tenant: Tenant, result: SchemaResult | WorkerDied, queue: _Queue
    ) -> None:
        """Note the result of a worker, or give the schema to another worker."""
        if isinstance(result, WorkerDied):
            queue.deaths[tenant] += 1
            if queue.deaths[tenant] <= _MAX_DEATHS:
                self.session.verify()
                queue.waiting.appendleft(tenant)
                return
            result = self._dead(result)
        if result.is_busy:
            queue.postponed.append(tenant)
        else:
            self._note(result)

    def _wait_for_keys(self, queue: _Queue) -> None:
        """Wait before the next attempt for schemas whose key another session has."""
        if queue.patience.passed():
            self._note_unavailable(queue.postponed.popleft())
            return
        sleep(_SECONDS_BETWEEN_ATTEMPTS)
        queue.retry()

    def _dead(self, death: WorkerDied) -> SchemaResult:
        text = (
            f"{_MAX_DEATHS + 1} processes died while they migrated the schema, the last with "
            f"the exit code {death.exit_code}"
        )
        result = SchemaResult(death.tenant.schema, error=text)
        self.schemas.note(result)
        return result

    def _note_unavailable(self, tenant: Tenant) -> None:
        result = SchemaResult(
            tenant.schema,
            error="Another session has kept the key of the schema, which it is creating or "
            "migrating.",
        )
        self.schemas.note(result)
        self._note(result)

    def _note(self, result: SchemaResult) -> None:
        if result.is_missing:
            self._missing.append(result.schema)
            self._total -= 1
        elif result.error is None:
            self._done += 1
            self.migrated += 1
            self._failures.note_success()
        else:
            self._note_failure(result)
        self._publish()

    def _note_failure(self, result: SchemaResult) -> None:
        is_new = self._failures.add(result)
        if result.migration is not None:
            self.schemas.record_failure(result)
        line = wrap(f"{result.schema} failed: ", result.error or "")
        self.report(printable_hint(line))
        logger.error(
            "%s: run %s: %s",
            self.context.alias,
            self.recorder.run_id,
            line,
            extra={"traceback_text": result.traceback if is_new else None},
        )
        self._stop_after_failure()

    def _stop_after_failure(self) -> None:
        if self.options.stop_at_first:
            self._stop("--stop-at-first")
        elif self._failures.is_systematic:
            self._stop(
                f"{self._failures.limit} schemas in a row failed with the same error: it is the "
                "migration, not the tenant"
            )

    def _stop(self, reason: str) -> None:
        self._stopped = self._stopped or reason

    def _publish(self) -> None:
        progress = SchemaProgress(self._total, self._done, len(self._failures.results))
        if self.options.shared:
            # It also says that the shared schema is done, of which a run in single schemas knows
            # nothing.
            self.recorder.schemas = progress
        self.recorder.message = f"{progress} updated"  # the heartbeat publishes it, too
        now = time.monotonic()
        if now - self._published > 0.5 or not progress.pending:
            self._published = now
            self.recorder.update(State.MIGRATING, self.recorder.message)

    # The end

    def _report_missing(self) -> None:
        if self._missing:
            self.report(
                printable(
                    f"Tenants without a schema, which are left alone: "
                    f"{name_some(sorted(self._missing))}."
                )
            )

    def _raise_failures(self) -> None:
        failed = self._failures.results
        if not failed:
            return
        shown = failed[:_NAMED_FAILURES]
        named = "; ".join(
            f"{each.schema}: {first_line(each.error or '')}" for each in shown
        )
        more = len(failed) - _NAMED_FAILURES
        text = f"{len(failed)} of {self._total} tenants' schemas failed: {named}"
        if more > 0:
            text += f"; and {more} more"
        if self._stopped:
            text += f". The run was stopped ({self._stopped})"
            if self._untried:
                were = "schema was" if self._untried == 1 else "schemas were"
                text += f", and {self._untried} {were} not tried"
        text = printable(f"{text.rstrip('.')}. The next start migrates what is left.")
        commands = [
            command
            for each in shown
            if isinstance(each.error, Hint)
            for command in each.error.commands
        ]
        raise SchemasFailed(
            Hint(text, *commands) if commands else text, failed[0].traceback
        )
