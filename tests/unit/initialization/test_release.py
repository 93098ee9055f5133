"""The receivers that a release may change, and the runs that make a new one needless."""

from __future__ import annotations

from functools import partial, wraps

import pytest
from django.contrib.auth.management import create_permissions
from django.contrib.auth.models import UserManager
from django.db.models.signals import post_migrate, pre_migrate

from django_safe_init.conf import Settings
from django_safe_init.core.schemas import SchemaProgress
from django_safe_init.initialization.release import ReceiverPolicy, project_receivers
from tests.unit.snapshots import OTHER, ended_run, run_row, snapshot


def install(**kwargs) -> None:
    """Stand for a receiver that installs a view."""


class Installer:
    """Stands for an object that installs views."""

    def method(self, **kwargs) -> None: ...

    @classmethod
    def class_method(cls, **kwargs) -> None: ...

    def __call__(self, **kwargs) -> None: ...


class Manager(UserManager):
    """Stands for a class of the project with a method that Django defines."""


INSTALLER = Installer()
RECEIVERS = {
    "install": install,
    "Installer.method": INSTALLER.method,
    "Installer.class_method": Installer.class_method,
    "Installer": INSTALLER,
}


@pytest.fixture
def connect():
    connected = []

    def connect(signal, receiver, **options) -> None:
        signal.connect(receiver, **options)
        connected.append((signal, receiver))

    yield connect
    for signal, receiver in connected:
        signal.disconnect(receiver)


def test_djangos_own_receivers() -> None:
    """A project with Django's apps has receivers, and all are Django's own."""
    assert len(post_migrate.receivers) >= 2
    assert project_receivers() == []
    assert ReceiverPolicy.of(Settings()) == ReceiverPolicy()


@pytest.mark.parametrize("name", RECEIVERS)
@pytest.mark.parametrize("signal", [pre_migrate, post_migrate])
def test_the_projects_receivers(connect, name, signal) -> None:
    """A receiver of the project is named by its dotted path, whatever kind of object it is."""
    connect(signal, RECEIVERS[name])
    assert project_receivers() == [f"{__name__}.{name}"]
    assert ReceiverPolicy.of(Settings()) == ReceiverPolicy(always=True)
    assert ReceiverPolicy.of(Settings(release="v1")) == ReceiverPolicy("v1")


def test_a_partial_receiver(connect) -> None:
    """A partial function counts as the function that it calls."""
    connect(post_migrate, partial(create_permissions, verbosity=0), weak=False)
    assert project_receivers() == []
    connect(post_migrate, partial(partial(install, a=1), b=2), weak=False)
    assert project_receivers() == [f"{__name__}.install"]


def test_a_wrapper_of_djangos_receiver(connect) -> None:
    """A function of the project is the project's, although it copies the name of Django's."""

    @wraps(create_permissions)
    def create_some(**kwargs) -> None: ...

    connect(post_migrate, create_some)
    assert len(project_receivers()) == 1


def test_an_inherited_method(connect) -> None:
    """A method that Django defines is the project's, on an object of the project."""
    manager = Manager()
    connect(post_migrate, manager.create_user)
    assert len(project_receivers()) == 1


def test_a_dead_receiver() -> None:
    """A receiver whose object is gone is not named."""
    post_migrate.connect(Installer().method)
    assert project_receivers() == []


READY = ended_run(3, "ready", release="v2")


@pytest.mark.parametrize(
    ("seen", "skip", "accepted"),
    [
        (snapshot(READY, release="v2"), True, True),
        (snapshot(READY, release="v3"), False, False),
        (snapshot(ended_run(3, "ready"), release="v2"), False, False),
        (snapshot(ended_run(3, "failed", release="v2"), release="v2"), False, False),
        (snapshot(ended_run(3, "ready", build=OTHER, release="v2")), False, False),
    ],
)
def test_a_release(seen, skip, accepted) -> None:
    """A release is done if the build's newest run, and the newest of any build, carry it."""
    policy = ReceiverPolicy("v2")
    assert (policy.allows_skip(seen), policy.accepts(seen)) == (skip, accepted)


def test_always() -> None:
    """Without a release only the own build's run is shared, and only by those who waited."""
    policy = ReceiverPolicy(always=True)
    other = ended_run(4, "ready", build=OTHER)
    assert not policy.allows_skip(snapshot(READY))
    assert policy.accepts(snapshot(READY))
    assert not policy.accepts(snapshot(other))
    assert not policy.accepts(snapshot(other, READY, superseded=True))
    assert not policy.accepts(snapshot(ended_run(5, "failed")))


def test_no_demand() -> None:
    """Without receivers of the project any earlier run will do."""
    other = snapshot(ended_run(4, "ready", build=OTHER))
    assert ReceiverPolicy().allows_skip(other)
    assert ReceiverPolicy().accepts(other)


IN_TENANTS = SchemaProgress(3, 1)


@pytest.mark.parametrize(
    ("own", "newest", "accepted"),
    [
        (run_row(2, release="r2", schemas=IN_TENANTS), "r1", True),
        (run_row(2, release="r2"), "r1", False),
        (run_row(2, release="r1", schemas=IN_TENANTS), "r1", False),
        (ended_run(2, "failed", release="r2", schemas=IN_TENANTS), "r2", True),
        (ended_run(2, "failed", release="r2", schemas=IN_TENANTS), "r3", False),
        (None, "r2", False),
    ],
)
def test_release_of_a_run_in_tenants(own, newest, accepted) -> None:
    """By policy, the run of a release counts once it has done the shared schema."""
    found = snapshot(own, release=newest, shared_suffices=True)
    assert ReceiverPolicy("r2").accepts(found) is accepted
    without = found._replace(shared_suffices=False)
    assert not ReceiverPolicy("r2").accepts(without)
    ran = own is not None and own.schemas is not None
    assert ReceiverPolicy(always=True).accepts(found) is ran
