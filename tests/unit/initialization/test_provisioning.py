"""The schema of a new tenant is migrated under its key, without a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from django_safe_init.backends.tenants import Tenant
from django_safe_init.core.deadline import Deadline
from django_safe_init.initialization.run_context import current_listener, in_run
from django_safe_init.initialization.schemas import provisioning as module
from django_safe_init.initialization.schemas.provisioning import provision


class Stage:
    """Notes what happens around the `migrate` of a new tenant."""

    alias = "default"

    def __init__(self) -> None:
        self.events: list[str] = []

    def kind_of(self, schema: str) -> str:
        return "large"

    def before_migrate(self, schema: str) -> None:
        self.events.append(f"before {schema}")

    def after_migrate(self, schema: str) -> None:
        self.events.append(f"after {schema}")

    @contextmanager
    def note(self, name: str) -> Iterator[None]:
        self.events.append(f"begin {name}")
        try:
            yield
        except BaseException:
            self.events.append(f"undo {name}")
            raise
        self.events.append(f"end {name}")

    def active(self, connection: Any, tenant: Tenant) -> Any:
        assert connection.alias == "default"
        return self.note(f"schema {tenant.schema} of kind {tenant.kind}")

    def guard(self, schema: str, context: Any) -> Any:
        assert isinstance(context.deadline, Deadline)
        return self.note(f"key {schema}")

    def atomic(self, using: str) -> Any:
        return self.note(f"transaction {using}")


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    made = Stage()
    monkeypatch.setattr(module, "schema_guard", made.guard)
    monkeypatch.setattr(module, "transaction", SimpleNamespace(atomic=made.atomic))
    return made


def apply(stage: Stage, name: str, *, atomic: bool = True, fake: bool = False) -> None:
    """Apply a migration as `TrackedMigrate` reports it."""
    migration: Any = SimpleNamespace(app_label="shop", name=name, atomic=atomic)
    listener: Any = current_listener("default")
    assert in_run("default")
    assert listener.current is None
    listener.on_apply_start(migration, backwards=False, fake=fake)
    assert listener.current == f"shop.{name}"
    stage.events.append(name)
    listener.on_apply_success(fake=fake)


def test_a_new_tenant(stage: Stage) -> None:
    """Each atomic migration and its record are one transaction, under the key of the schema."""

    def migrate() -> None:
        apply(stage, "0001")
        apply(stage, "0002", atomic=False)
        apply(stage, "0003", atomic=False, fake=True)

    provision(stage, "acme", migrate, stage.events.append)  # type: ignore[arg-type]
    assert stage.events == [
        "begin key acme",
        "begin schema acme of kind large",
        "before acme",
        "begin transaction default",
        "0001",
        "end transaction default",
        "0002",
        "begin transaction default",
        "0003",
        "end transaction default",
        "after acme",
        "end schema acme of kind large",
        "end key acme",
    ]
    assert not in_run("default")


def test_a_migration_that_fails(stage: Stage) -> None:
    """The transaction of a migration that fails is rolled back, and the key is released."""

    def migrate() -> None:
        listener: Any = current_listener("default")
        migration: Any = SimpleNamespace(app_label="shop", name="0001", atomic=True)
        listener.on_apply_start(migration, backwards=False, fake=False)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        provision(stage, "acme", migrate, stage.events.append)  # type: ignore[arg-type]
    assert stage.events[-3:] == [
        "undo transaction default",
        "undo schema acme of kind large",
        "undo key acme",
    ]
    assert not in_run("default")
