"""The leader's side of a run in the schemas of tenants, with workers that a test plays."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.exceptions import FieldError

from django_safe_init.backends.base.schema_session import SchemaResult
from django_safe_init.backends.tenants import Tenant
from django_safe_init.conf import Settings
from django_safe_init.core.deadline import Deadline
from django_safe_init.core.schemas import FoundSchema, SchemaIdentity, SchemaProgress
from django_safe_init.core.text import Hint
from django_safe_init.exceptions import (
    ConfigurationError,
    InitializationFailed,
    SchemasFailed,
)
from django_safe_init.initialization.schemas import run as module
from django_safe_init.initialization.schemas.pool import WorkerDied
from django_safe_init.initialization.schemas.run import SchemaRun
from django_safe_init.initialization.types import MigrateTask, SchemaOptions

IDENTITY = SchemaIdentity(1, 1, 0, 0, 0)
NAMES = ["a", "b", "c", "d", "e", "f"]
#: All schemas, one after another.
ALL = SchemaOptions()
Answer = Callable[[Tenant], SchemaResult | WorkerDied]


def found(name: str, *, exists: bool = True) -> FoundSchema:
    return FoundSchema(name, "", exists, IDENTITY)


class Schemas:
    """Stands for the schemas of a database."""

    def __init__(self) -> None:
        self.known = [found(name) for name in NAMES]
        self.behind = set(NAMES)
        self.remembered: list[str] = []
        self.planned: list[str] = []
        self.pruned = False
        self.failures: list[tuple[str, str | None]] = []
        self.half_done: set[str] = set()
        self.noted: list[str] = []
        self.room: int | None = None
        self.failed_before: set[str] = set()

    def all(self) -> list[FoundSchema]:
        return list(self.known)

    def stale(self, receivers: str | None = None) -> list[FoundSchema]:
        return [each for each in self.known if each.schema in self.behind]

    def complete(self, among: Sequence[FoundSchema]) -> set[str]:
        complete = {each.schema for each in among} & {"complete"}
        self.behind -= complete
        return complete

    def remember(self, schemas: Sequence[FoundSchema], receivers: str | None) -> None:
        self.remembered += [each.schema for each in schemas]

    def plan(self, work: Sequence[FoundSchema]) -> None:
        self.planned = [each.schema for each in work]

    def unfinished(self) -> set[str]:
        return self.half_done

    def records(self, schema: str) -> set[tuple[str, str]]:
        return {("shop", schema)}

    def prune(self) -> None:
        self.pruned = True

    def note(self, result: SchemaResult) -> None:
        self.noted.append(result.schema)

    def record_failure(self, result: SchemaResult) -> None:
        self.failures.append((result.schema, result.migration))

    def failed(self) -> set[str]:
        return self.failed_before

    def max_workers(self) -> int | None:
        return self.room

    def worker(self, *, forked: bool) -> None: ...


class Pool:
    """Plays the workers: each schema gets the answers of a test, and is else done."""

    def __init__(self, size: int, answers: dict[str, list[Answer]]) -> None:
        self.size = size
        self.answers = answers
        self.submitted: list[str] = []
        self._working: deque[Tenant] = deque()

    def has_room(self) -> bool:
        return len(self._working) < self.size

    @property
    def busy(self) -> int:
        return len(self._working)

    def submit(self, tenant: Tenant) -> None:
        self.submitted.append(tenant.schema)
        self._working.append(tenant)

    def next(self) -> tuple[Tenant, SchemaResult | WorkerDied]:
        tenant = self._working.popleft()
        answers = self.answers.get(tenant.schema)
        answer = answers.pop(0) if answers else done
        return tenant, answer(tenant)


def done(tenant: Tenant) -> SchemaResult:
    return SchemaResult(tenant.schema)


def missing(tenant: Tenant) -> SchemaResult:
    return SchemaResult(tenant.schema, is_missing=True)


def busy(tenant: Tenant) -> SchemaResult:
    return SchemaResult(tenant.schema, is_busy=True)


def died(tenant: Tenant) -> WorkerDied:
    return WorkerDied(tenant, -9)


def failing(text: str, migration: str | None = None) -> Answer:
    return lambda tenant: SchemaResult(tenant.schema, error=text, migration=migration)


class Stage:
    """A run whose surroundings are played."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.schemas = Schemas()
        self.answers: dict[str, list[Answer]] = {}
        self.settings: dict[str, Any] = {}
        self.pool: Pool | None = None
        self.jobs = 0
        self.verified = 0
        self.reports: list[str] = []
        self.updates: list[str] = []
        self.naps = 0
        self.prepared: list[tuple[str, set[tuple[str, str]]]] = []
        self.tenancy = SimpleNamespace(
            shared_schema="public",
            package="django-tenants",
            default_order=(),
            fields=("schema_name",),
            tenants=None,
            static_tenants=(),
            active=self._nothing,
        )
        stage = self

        class Planner:
            def __init__(self, alias: str) -> None: ...

            def plan(self, kind: str, recorded: set[tuple[str, str]]) -> None:
                stage.prepared.append((kind, recorded))

        @contextmanager
        def opened_pool(jobs: int, make_worker: Callable[[bool], Any]) -> Iterator[Any]:
            make_worker(jobs > 1)
            self.jobs, self.pool = jobs, Pool(jobs, self.answers)
            yield self.pool

        monkeypatch.setattr(module, "Planner", Planner)
        monkeypatch.setattr(module, "SchemaWorker", lambda *args, **kwargs: None)
        monkeypatch.setattr(module, "opened_pool", opened_pool)
        monkeypatch.setattr(module, "open_schemas", lambda *args: self.schemas)
        monkeypatch.setattr(module, "receivers_digest", lambda *args: "digest")
        monkeypatch.setattr(module, "sleep", self._sleep)

    @contextmanager
    def _nothing(self, *args: object) -> Iterator[Any]:
        yield

    def _sleep(self, seconds: float) -> None:
        self.naps += 1

    def _verify(self) -> None:
        self.verified += 1

    def run(self, schemas: SchemaOptions = ALL, **task: Any) -> SchemaRun:
        settings = Settings(**self.settings)
        recorder = SimpleNamespace(
            run_id=7,
            schemas=None,
            update=lambda state, text: self.updates.append(text),
        )
        session: Any = SimpleNamespace(
            recorder=recorder,
            verify=self._verify,
            connections=self._nothing,
            ensure_journal=lambda: self.prepared.append(("journal", set())),
        )
        context: Any = SimpleNamespace(
            alias="default", build=None, settings=settings, deadline=Deadline(None)
        )
        wanted = MigrateTask(
            lambda: None, "test", report=self.reports.append, schemas=schemas, **task
        )
        tenancy: Any = self.tenancy
        self.made = SchemaRun(context, session, tenancy, wanted)
        self.made.run()
        return self.made

    def fail(self, schemas: SchemaOptions = ALL, **task: Any) -> str:
        """Return the error of a run that fails."""
        with pytest.raises(InitializationFailed) as caught:
            self.run(schemas, **task)
        return str(caught.value)

    @property
    def tried(self) -> list[str]:
        assert self.pool is not None
        return self.pool.submitted

    @property
    def progress(self) -> SchemaProgress:
        progress: SchemaProgress = self.made.recorder.schemas  # type: ignore[assignment]
        return progress


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(monkeypatch)


def test_all_schemas(stage: Stage) -> None:
    """All schemas are migrated, by name, and the rows that nothing needs are deleted."""
    stage.run()
    assert stage.tried == stage.schemas.planned == NAMES
    assert stage.progress == SchemaProgress(6, 6)
    assert stage.schemas.pruned
    assert stage.updates[-1] == "6 of 6 schemas updated"
    assert stage.prepared == []


def test_nothing_to_do(stage: Stage) -> None:
    """Schemas that lack no migration are remembered, and no pool is opened."""
    stage.schemas.known = [found("complete")]
    stage.schemas.behind = {"complete"}
    stage.run()
    assert stage.pool is None
    assert stage.schemas.remembered == ["complete"]
    assert stage.progress == SchemaProgress(1, 1)


def test_processes(stage: Stage) -> None:
    """Before processes are forked, a plan for each kind of tenant is made."""
    stage.schemas.known[1] = found("b")._replace(kind="large")
    stage.run(SchemaOptions(jobs=4))
    assert stage.jobs == 4
    assert stage.prepared.pop() == ("journal", set())
    assert sorted(stage.prepared) == [
        ("", {("shop", "a")}),
        ("large", {("shop", "b")}),
    ]
    stage.schemas.behind = {"a"}
    stage.run(SchemaOptions(jobs=4))
    assert stage.jobs == 1


def test_a_migrate_with_a_target(stage: Stage) -> None:
    """A person's `migrate` with a target runs in all schemas, whatever the rows say."""
    stage.schemas.behind = {"a"}
    stage.run(SchemaOptions(migrate=lambda: None))
    assert stage.tried == NAMES


def test_force(stage: Stage) -> None:
    """With `--force` the records of all schemas count, also where a row is up to date."""
    stage.schemas.known.append(found("complete"))
    stage.schemas.behind = {"a"}
    stage.run(SchemaOptions(force=True))
    assert stage.schemas.remembered == ["complete"]
    assert stage.tried == list(NAMES)


def test_half_done_migrations(stage: Stage) -> None:
    """A schema with a half-done migration is migrated, also if its records are complete."""
    stage.schemas.half_done = {"b", "d"}
    stage.schemas.behind = {"d"}
    stage.run()
    assert stage.tried == ["b", "d"]


def test_chosen_schemas(stage: Stage) -> None:
    """Only the named schemas are migrated, and the total is their number."""
    stage.run(SchemaOptions(shared=False, only=("c", "a")))
    assert stage.tried == ["a", "c"]
    assert stage.updates[-1] == "2 of 2 schemas updated"
    assert not stage.schemas.pruned
    # The row of the run says nothing about the shared schema.
    assert stage.made.recorder.schemas is None


def test_unknown_names(stage: Stage) -> None:
    """A name that no tenant has is refused, and a schema that does not exist."""
    stage.schemas.known.append(found("gone", exists=False))
    for names, text in (
        (("a", "zzz"), "No tenant of 'default' has the schema zzz"),
        (("gone",), "The schema gone does not exist. Create it with django-tenants"),
    ):
        with pytest.raises(ConfigurationError, match=text):
            stage.run(SchemaOptions(only=names))


def test_a_tenant_without_a_schema(stage: Stage) -> None:
    """The run names a tenant without a schema, skips it, and does not count it."""
    stage.schemas.known.append(found("gone", exists=False))
    stage.schemas.behind.add("gone")
    stage.answers["c"] = [missing]
    stage.run()
    assert "gone" not in stage.tried
    assert stage.progress == SchemaProgress(5, 5)
    assert stage.reports == ["Tenants without a schema, which are left alone: c, gone."]


# Failures


def test_a_failure(stage: Stage) -> None:
    """A failing schema stops no other, and the error names it."""
    stage.answers["b"] = [failing("shop.0002: no room\n", "shop.0002")]
    text = stage.fail()
    assert stage.schemas.failures == [("b", "shop.0002")]
    assert stage.tried == NAMES
    assert text.startswith("1 of 6 tenants' schemas failed: b: shop.0002: no room")
    assert text.endswith(". The next start migrates what is left.")
    assert stage.progress == SchemaProgress(6, 5, 1)
    assert stage.reports[0].startswith("b failed: shop.0002: no room")
    assert stage.schemas.pruned


def test_the_log_of_failures(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """Each failure is logged, with the traceback of the first in its way."""
    for number, name in enumerate("abc"):
        stage.answers[name] = [
            lambda tenant, n=number: SchemaResult(
                tenant.schema,
                error=f"{tenant.schema} has {n} rows",
                traceback="Traceback",
            )
        ]
    stage.fail()
    assert caplog.messages == [
        f"default: run 7: {name} failed: {name} has {number} rows"
        for number, name in enumerate("abc")
    ]
    tracebacks: list[Any] = [vars(each)["traceback_text"] for each in caplog.records]
    assert tracebacks == ["Traceback", None, None]


def test_the_commands_of_a_failure(stage: Stage) -> None:
    """The commands of a schema's error stand below the error of the run."""
    hint = Hint("It is half done. Continue with:", "manage.py safe_migrate --schema b")
    stage.answers["b"] = [lambda tenant: SchemaResult(tenant.schema, error=hint)]
    text = stage.fail()
    assert "manage.py safe_migrate --schema b" in text


def test_many_failures(stage: Stage) -> None:
    """The error names the first failed schemas and counts the others."""
    for name in NAMES:
        stage.answers[name] = [failing(f"reason of {'xyzuvw'[NAMES.index(name)]}")]
    text = stage.fail()
    assert "6 of 6 tenants' schemas failed: a: reason of x; " in text
    assert text.endswith(
        "e: reason of v; and 1 more. The next start migrates what is left."
    )


def test_the_first_failure(stage: Stage) -> None:
    """With `--stop-at-first` no schema is begun after a failure."""
    stage.answers["b"] = [failing("no")]
    text = stage.fail(SchemaOptions(stop_at_first=True))
    assert stage.tried == ["a", "b"]
    assert "The run was stopped (--stop-at-first), and 4 schemas were not tried" in text
    stage.answers = {"f": [failing("no")]}
    assert "not tried" not in stage.fail(SchemaOptions(stop_at_first=True))


@pytest.mark.parametrize(
    "error",
    [
        "{schema}.box has {number} rows",
        'invalid input syntax for type integer: "word{schema}"',
        "no coal in 'mine of {schema}'",
        "duplicate key DETAIL: Key (name)=({schema} and more) already exists.",
    ],
)
def test_the_same_failure_again_and_again(stage: Stage, error: str) -> None:
    """The same error in several schemas in a row stops the run, apart from names and values."""
    stage.settings["tenant_failures"] = 3
    for number, name in enumerate(NAMES):
        stage.answers[name] = [failing(error.format(schema=name, number=number))]
    text = stage.fail()
    assert stage.tried == ["a", "b", "c"]
    assert "3 schemas in a row failed with the same error" in text


@pytest.mark.parametrize("between", [done, failing("another")])
def test_failures_that_are_not_in_a_row(stage: Stage, between: Answer) -> None:
    """A success, or another error, begins a new row of failures."""
    stage.settings["tenant_failures"] = 3
    for name in NAMES:
        stage.answers[name] = [failing("the same")]
    stage.answers["c"] = [between]
    assert "3 schemas in a row" in stage.fail()
    assert stage.tried == NAMES


def test_failures_of_two_migrations(stage: Stage) -> None:
    """The same words about another migration are another error."""
    stage.settings["tenant_failures"] = 3
    for number, name in enumerate(NAMES):
        migration = f"stock.000{number % 2}_x"
        stage.answers[name] = [failing(f"{migration}: no", migration)]
    assert "in a row" not in stage.fail()
    assert stage.tried == NAMES


# Canaries


def test_canaries(stage: Stage) -> None:
    """If the canaries succeed, the other schemas follow."""
    stage.run(SchemaOptions(canary=2))
    assert stage.tried == NAMES


def test_a_canary_that_fails(stage: Stage) -> None:
    """If a canary fails, no other schema is tried."""
    stage.answers["b"] = [failing("no")]
    text = stage.fail(SchemaOptions(canary=2))
    assert stage.tried == ["a", "b"]
    assert "(a canary failed), and 4 schemas were not tried" in text


# Keys and deaths


def test_a_key_that_another_session_has(stage: Stage) -> None:
    """The schema is tried again later, after the others."""
    stage.answers["a"] = [busy, busy]
    stage.run()
    assert stage.tried == [*NAMES, "a", "a"]
    assert stage.naps == 2
    assert stage.progress == SchemaProgress(6, 6)


def test_a_key_that_is_never_free(stage: Stage, monkeypatch: Any) -> None:
    """After the time of waiting the schema counts as failed."""
    stage.answers["a"] = [busy] * 99
    monkeypatch.setattr(Deadline, "passed", lambda self: stage.naps > 2)
    text = stage.fail()
    assert stage.naps == 3
    assert "a: Another session has kept the key of the schema" in text
    assert stage.schemas.noted == ["a"]


def test_a_stop_while_a_key_is_awaited(stage: Stage) -> None:
    """A run that stops does not wait for keys."""
    stage.answers = {"a": [busy], "b": [failing("no")]}
    text = stage.fail(SchemaOptions(stop_at_first=True))
    assert stage.naps == 0
    assert "5 schemas were not tried" in text


def test_a_worker_that_dies(stage: Stage) -> None:
    """Another worker gets the schema at once, if this process still leads."""
    stage.answers["a"] = [died, died]
    stage.run()
    assert stage.tried == ["a", "a", *NAMES]
    assert stage.verified == 2


def test_a_schema_that_kills_its_workers(stage: Stage) -> None:
    """After the third death the schema counts as failed."""
    stage.answers["a"] = [died, died, died]
    text = stage.fail()
    assert "a: 3 processes died while they migrated the schema, the last with" in text
    assert stage.progress == SchemaProgress(6, 5, 1)


# Order


def by_size(names: list[str]) -> list[str]:
    assert names == sorted(names)
    return ["d", "b"]


def test_an_order_by_a_function(stage: Stage) -> None:
    """The schemas that the function leaves out come last."""
    stage.settings["tenant_order"] = f"{__name__}.by_size"
    stage.run()
    assert stage.tried == ["d", "b", "a", "c", "e", "f"]


class Rows:
    """Stands for the query of the tenants."""

    def using(self, alias: str) -> Rows:
        return self

    def order_by(self, *fields: str) -> Rows:
        if "size" not in str(fields):
            raise FieldError(f"Cannot resolve keyword {fields}")
        return self

    def values_list(self, field: str, flat: bool) -> list[str]:
        assert (field, flat) == ("schema_name", True)
        return ["f", "a"]


def test_an_order_by_a_field(stage: Stage) -> None:
    """A field of the tenant model orders the schemas, by default the package's own setting."""
    stage.tenancy.tenants = Rows()
    stage.settings["tenant_order"] = "-size"
    stage.run()
    assert stage.tried == ["f", "a", "b", "c", "d", "e"]
    del stage.settings["tenant_order"]
    stage.tenancy.default_order = ["size"]
    stage.run()
    assert stage.tried == ["f", "a", "b", "c", "d", "e"]
    stage.tenancy.tenants = None
    stage.run()
    assert stage.tried == NAMES


def by_weight(names: list[str]) -> list[str]:
    raise ZeroDivisionError("no weight")


@pytest.mark.parametrize(
    "order",
    ["weight", "mysite.tenants.by_size", f"{__name__}.NAMES", f"{__name__}.by_weight"],
)
def test_an_unknown_order(stage: Stage, order: str) -> None:
    """A field that does not exist, or a wrong function, is one clear error."""
    stage.tenancy.tenants = Rows()
    stage.settings["tenant_order"] = order
    with pytest.raises(ConfigurationError, match=f"TENANT_ORDER'\\] is '{order}'"):
        stage.run()


def test_progress_is_not_written_for_each_schema(
    stage: Stage, monkeypatch: Any
) -> None:
    """The row of the run is written twice a second, and at the end."""
    monkeypatch.setattr(module.time, "monotonic", lambda: 1000.0)
    stage.run()
    assert stage.updates == ["0 of 6 schemas updated", "6 of 6 schemas updated"]
    assert stage.made.recorder.schemas == SchemaProgress(6, 6)


def test_few_connections(stage: Stage) -> None:
    """No more processes are forked than get their connections, and a line says why."""
    stage.schemas.room = 2
    stage.run(SchemaOptions(jobs=5))
    assert stage.jobs == 2
    assert "The server has connections for 2 of 5 processes" in stage.reports[0]


def test_a_tenant_that_is_created_meanwhile(stage: Stage) -> None:
    """A schema that appears during the run is migrated before the run ends."""

    def create(tenant: Tenant) -> SchemaResult:
        stage.schemas.known.append(found("late"))
        stage.schemas.behind.add("late")
        return done(tenant)

    stage.answers["f"] = [create]
    stage.run()
    assert stage.tried == ["late"]
    assert stage.made.recorder.schemas == SchemaProgress(7, 7)


def test_schemas_that_failed_before(stage: Stage) -> None:
    """Schemas in which the last attempt failed come last."""
    stage.schemas.failed_before = {"a", "c"}
    stage.run()
    assert stage.tried == ["b", "d", "e", "f", "a", "c"]


def test_values_in_errors(stage: Stage) -> None:
    """Errors that differ in the values of rows only are the same."""
    for name in NAMES:
        text = f'duplicated DETAIL: Key (label)=("{name * 3}") is duplicated.'
        stage.answers[name] = [failing(text)]
    with pytest.raises(SchemasFailed, match="5 schemas in a row"):
        stage.run()


def test_a_schema_that_a_run_creates(stage: Stage) -> None:
    """A run creates a missing schema after some time, in which its tenant may do it."""
    stage.schemas.known.append(
        FoundSchema("made", "", False, SchemaIdentity(None, None, 0, 0, 0), True)
    )
    stage.schemas.behind = {"made"}
    stage.run()
    assert (stage.tried, stage.naps) == (["made"], 1)
