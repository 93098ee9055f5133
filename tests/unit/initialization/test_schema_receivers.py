"""The rows that receivers of `post_migrate` create, and the receivers that run for real."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.apps import apps
from django.contrib.auth.models import Permission
from django.contrib.contenttypes.models import ContentType
from django.db.migrations import Migration, RenameModel
from django.db.migrations.state import ModelState, ProjectState
from django.db.models.signals import post_migrate, pre_migrate

from django_safe_init.backends.base.schema_session import ReceiverRows
from django_safe_init.conf import Settings
from django_safe_init.core.build import Build
from django_safe_init.initialization.schemas import receivers as module
from django_safe_init.initialization.schemas.plans import (
    Plan,
    PlannedMigration,
    RecordedLoader,
)
from django_safe_init.initialization.schemas.receivers import (
    Receivers,
    receivers_digest,
    rows_of,
)

BUILD = Build(frozenset(), "x")
AUTH = ["group", "permission", "user"]


class Router:
    """Lets the schema that is active have no table of an app."""

    forbidden: tuple[str, ...] = ()

    def allow_migrate(self, db: str, app_label: str, **hints: object) -> bool | None:
        return False if app_label in self.forbidden else None


@pytest.fixture
def forbid(settings: Any) -> Iterator[Any]:
    settings.DATABASE_ROUTERS = [f"{__name__}.Router"]
    yield lambda *labels: setattr(Router, "forbidden", labels)
    Router.forbidden = ()


@pytest.fixture
def connect() -> Iterator[Any]:
    """Connect receivers of a project."""
    connected = []

    def connect(signal: Any, receiver: Any) -> None:
        signal.connect(receiver)
        connected.append((signal, receiver))

    yield connect
    for signal, receiver in connected:
        signal.disconnect(receiver)


@pytest.fixture
def plan() -> Plan:
    """A plan without migrations whose state has the models of `auth` and `contenttypes`."""
    state = ProjectState(real_apps={"auth", "contenttypes"})
    return Plan(RecordedLoader(()), [], state, set())


# Rows


def test_rows() -> None:
    """Each model of an app with models has a content type, and its permissions."""
    rows = rows_of("default", apps)
    assert sorted(rows.content_types) == [
        *(("auth", name) for name in AUTH),
        ("contenttypes", "contenttype"),
    ]
    assert len(rows.permissions) == 16
    assert ("auth", "user", "add_user", "Can add user") in rows.permissions


def test_rows_of_a_schema_without_the_tables(forbid: Any) -> None:
    """Without the table of permissions a schema gets no such rows, without both none at all.

    The permissions of a schema may belong to content types of the shared one.
    """
    forbid("auth")
    rows = rows_of("default", apps)
    assert (len(rows.content_types), rows.permissions) == (4, ())
    forbid("contenttypes")
    rows = rows_of("default", apps)
    assert (len(rows.content_types), len(rows.permissions)) == (4, 16)
    forbid("auth", "contenttypes")
    assert rows_of("default", apps) == ReceiverRows()
    assert len(rows_of("default", apps, is_filtered=False).permissions) == 16


def test_rows_without_content_types(settings: Any) -> None:
    """A project without content types has no rows."""
    settings.INSTALLED_APPS = ["django_safe_init"]
    assert rows_of("default", apps) == ReceiverRows()


def test_rows_of_some_apps(settings: Any) -> None:
    """An app without models, or that the state does not know, has no rows."""
    settings.INSTALLED_APPS = [
        *settings.INSTALLED_APPS,
        "django.contrib.staticfiles",
    ]
    state = ProjectState(real_apps={"contenttypes"})
    rows = rows_of("default", state.apps)
    assert rows.content_types == (("contenttypes", "contenttype"),)


# The digest


def install(**kwargs: Any) -> None:
    """Stand for a receiver that installs a view."""


def test_digest_of_djangos_receivers(settings: Any) -> None:
    """With Django's own receivers only the models of the project change the digest."""
    before = receivers_digest("default", BUILD, Settings())
    other = receivers_digest("default", Build(frozenset(), "y"), Settings(release="2"))
    assert before == other
    settings.INSTALLED_APPS = ["django_safe_init", "django.contrib.contenttypes"]
    assert receivers_digest("default", BUILD, Settings()) != before


@pytest.mark.parametrize("signal", [pre_migrate, post_migrate])
def test_digest_of_a_projects_receivers(connect: Any, signal: Any) -> None:
    """With another receiver each build and each release changes the digest."""
    before = receivers_digest("default", BUILD, Settings())
    connect(signal, install)
    digests = {
        before,
        receivers_digest("default", BUILD, Settings()),
        receivers_digest("default", BUILD, Settings(release="2")),
        receivers_digest("default", Build(frozenset(), "y"), Settings()),
    }
    assert len(digests) == 4


# The receivers of a run


@pytest.fixture
def emitted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the list of the models that `post_migrate` would get."""
    sent: list[Any] = []

    def emit(*args: Any, apps: Any, **kwargs: Any) -> None:
        sent.append(apps)

    monkeypatch.setattr(module, "emit_post_migrate_signal", emit)
    return sent


def test_only_djangos_receivers(plan: Plan, emitted: list[Any]) -> None:
    """Only rows in bulk are needed, which are computed once for a plan."""
    receivers = Receivers("default")
    receivers.before(plan)
    rows = receivers.rows(plan)
    receivers.after(plan)
    assert emitted == []
    assert sorted(name for _, name in rows.content_types) == [
        "contenttype",
        *AUTH,
    ]
    assert receivers.rows(plan) is rows


def test_a_receiver_of_the_project(
    plan: Plan, connect: Any, emitted: list[Any]
) -> None:
    """The signals are sent in each schema, and no cache keeps a row of another schema."""
    before: list[Any] = []

    def receive(apps: Any, **kwargs: Any) -> None:
        before.append(apps)

    connect(pre_migrate, receive)
    connect(post_migrate, install)
    receivers = Receivers("default")
    receivers.before(plan)
    assert before
    assert before[0].get_model("auth", "User")._meta.label == "auth.User"
    ContentType.objects._cache["default"] = {1: "of another schema"}
    receivers.after(plan)
    assert ContentType.objects._cache == {}
    [models] = emitted
    assert models.get_model("auth", "Permission") is not Permission
    receivers.after(plan)
    assert emitted == [models, models]


def test_the_state_before_the_migrations(plan: Plan, connect: Any) -> None:
    """A receiver of `pre_migrate` gets the models from before the first migration."""
    seen: list[bool] = []

    def receive(apps: Any, **kwargs: Any) -> None:
        seen.append("old" in apps.all_models["shop"])

    connect(pre_migrate, receive)
    state = ProjectState()
    state.add_model(ModelState("shop", "Old", []))
    planned = PlannedMigration(Migration("0002", "shop"), state, {("shop", "0002")})
    changed = Plan(plan.loader, [planned], plan.state, set())
    assert Receivers("default").before(changed) == [planned]
    assert set(seen) == {True}


def test_operations_of_a_receiver(plan: Plan, connect: Any) -> None:
    """A migration to which a receiver adds an operation runs for real, and stays as it was."""

    def receive(plan: Any, app_config: Any, **kwargs: Any) -> None:
        if app_config.label == "auth":
            plan[0][0].operations.append(RenameModel("Old", "New"))

    connect(pre_migrate, receive)
    state = ProjectState()
    planned = [
        PlannedMigration(Migration(name, "shop"), state, {("shop", name)}, ["SELECT 1"])
        for name in ("0001", "0002")
    ]
    changed = Plan(plan.loader, planned, plan.state, set())
    for _ in range(2):
        first, second = Receivers("default").before(changed)
        assert len(first.migration.operations) == 1
        assert first.statements is None
        assert first.runs_python
        assert second == planned[1]
    assert planned[0].migration.operations == []


def test_a_renamed_model(plan: Plan, emitted: list[Any]) -> None:
    """After the rename of a model the signal is sent, because a receiver renames content types."""
    migration = Migration("0002", "shop")
    migration.operations = [RenameModel("Old", "New")]
    planned = PlannedMigration(migration, plan.state, {("shop", "0002")})
    changed = Plan(plan.loader, [planned], plan.state, set())
    assert planned.name == "shop.0002"
    Receivers("default").after(changed)
    assert len(emitted) == 1


def test_sites(plan: Plan, settings: Any, monkeypatch: Any) -> None:
    """With `django.contrib.sites` the default site is made."""
    settings.INSTALLED_APPS = ["django_safe_init", "django.contrib.sites"]
    from django.contrib.sites import management

    made: list[Any] = []
    monkeypatch.setattr(
        management, "create_default_site", lambda *args, **kw: made.append(kw["using"])
    )
    bare = Plan(plan.loader, [], ProjectState(), set())
    Receivers("default").after(bare)
    assert made == ["default"]
