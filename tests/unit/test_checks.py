"""The system checks: each has an id and a hint, and none opens the database."""

from __future__ import annotations

import pytest
from django.apps import apps
from django.core.checks import ERROR, WARNING, run_checks
from django.core.management import get_commands
from django.db import connections

from django_safe_init import checks

OTHER = {"ENGINE": "tests.other_engine", "NAME": ":memory:"}


@pytest.fixture
def other_alias(settings, monkeypatch):
    """A second database, on an engine without a lock."""
    configured = connections.configure_settings({"default": {}, "other": dict(OTHER)})
    monkeypatch.setitem(connections.settings, "other", configured["other"])
    settings.SAFE_INIT = {"DATABASES": ["default", "other"]}
    connections["other"].close()
    yield
    del connections["other"]


def ours() -> list:
    return run_checks(tags=["safe_init"])


def test_a_sound_project_has_no_message() -> None:
    """With the defaults, all checks are silent."""
    assert ours() == []


@pytest.mark.parametrize(
    ("value", "id_"),
    [
        ({"MODUS": "self"}, "safe_init.E001"),
        ({"MODE": "selfish"}, "safe_init.E002"),
        ({"DATABASES": ["nowhere"]}, "safe_init.E002"),
        ([], "safe_init.E002"),
    ],
)
def test_settings(settings, value, id_) -> None:
    """E001 is an unknown key, E002 a value that a key cannot have; each has a hint."""
    settings.SAFE_INIT = value
    [message] = ours()
    assert (message.id, message.level) == (id_, ERROR)
    assert message.hint


@pytest.mark.usefixtures("other_alias")
def test_engine_without_a_lock() -> None:
    """W001 names a database whose engine has no lock, and the ways out."""
    [message] = ours()
    assert (message.id, message.level) == ("safe_init.W001", WARNING)
    assert message.msg == "The database 'other' (Other) has no leader lock."
    assert '"LOCK": "none"' in message.hint


@pytest.mark.usefixtures("other_alias")
def test_the_risk_is_accepted(settings) -> None:
    """LOCK = "none" silences W001."""
    settings.SAFE_INIT = {**settings.SAFE_INIT, "LOCK": "none"}
    assert ours() == []


@pytest.mark.parametrize("app", ["django_tenants", "tenant_schemas"])
def test_unsupported_executor(monkeypatch, app) -> None:
    """E003 names an app that brings migration executors of its own."""
    monkeypatch.setattr(apps, "is_installed", lambda name: name == app)
    [message] = checks.check_executor(None)
    assert (message.id, message.level) == ("safe_init.E003", ERROR)
    assert message.msg.startswith(app)
    assert app in message.hint


def test_shadowed_migrate(settings) -> None:
    """W002 says that another app's `migrate` is used, and how to let ours extend it."""
    settings.INSTALLED_APPS = ["syzygy", *settings.INSTALLED_APPS]
    assert get_commands()["migrate"] == "syzygy"
    [message] = [each for each in ours() if each.id.startswith("safe_init")]
    assert (message.id, message.level) == ("safe_init.W002", WARNING)
    assert "The `migrate` of syzygy is used" in message.msg
    assert message.hint == (
        "Put 'django_safe_init' before 'syzygy' in INSTALLED_APPS; ours then extends theirs."
    )


def test_migrate_that_ours_extends(settings) -> None:
    """Another app's `migrate` behind ours is none of W002's business."""
    settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, "syzygy"]
    assert [each for each in ours() if each.id == "safe_init.W002"] == []
