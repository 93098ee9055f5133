"""Decide if a start must run the receivers of `pre_migrate` and `post_migrate` again.

A release may change only what a receiver does, for example the SQL of a view. No migration tells
that, so the release does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import ReferenceType

from django.db.models.signals import post_migrate, pre_migrate
from django.dispatch import Signal

from django_safe_init.conf import Settings
from django_safe_init.core.records import Snapshot

#: The packages whose receivers change only with their version, which is a part of the build.
_KNOWN_PACKAGES = ("django", "django_safe_init")


def project_receivers() -> list[str]:
    """Return the dotted paths of the connected receivers that are not Django's own, sorted.

    Imports nothing: a receiver that is connected later is not known.
    """
    return sorted({*receivers_of(pre_migrate), *receivers_of(post_migrate)})


def receivers_of(signal: Signal) -> set[str]:
    """Return the dotted paths of the signal's connected receivers that are not Django's own."""
    return {
        f"{receiver.__module__}.{_name(receiver)}"
        for receiver in _live_receivers(signal)
        if _package(receiver) not in _KNOWN_PACKAGES
    }


def _live_receivers(signal: Signal) -> Iterator[Any]:
    # Django has no public way to list receivers. The second item is one, in all versions.
    for _, receiver, *_ in list(signal.receivers):
        if isinstance(receiver, ReferenceType):
            receiver = receiver()
        while isinstance(receiver, partial):
            receiver = receiver.func
        if receiver is not None:
            yield receiver


def _package(receiver: Callable[..., Any]) -> str:
    """Return the top-level package of a receiver, or of the class of a method's object."""
    owner = getattr(receiver, "__self__", None)
    if owner is not None:
        cls = owner if isinstance(owner, type) else type(owner)
        return str(cls.__module__).partition(".")[0]
    # Not `__module__`, which `functools.wraps` copies from another function.
    module = getattr(receiver, "__globals__", {}).get("__name__")
    return str(module or type(receiver).__module__).partition(".")[0]


def _name(receiver: Callable[..., Any]) -> str:
    name: str = getattr(receiver, "__qualname__", type(receiver).__qualname__)
    return name


@dataclass(frozen=True)
class ReceiverPolicy:
    """The demand that a start makes on earlier runs, because of the receivers."""

    #: The release in which the receivers must have run; None to demand no release.
    release: str | None = None
    #: True if the receivers must run in each start. Only a run during the start counts.
    always: bool = False

    @classmethod
    def of(cls, settings: Settings) -> ReceiverPolicy:
        """Return the policy for the settings and the connected receivers."""
        if settings.release is not None:
            return cls(settings.release)
        return cls(always=bool(project_receivers()))

    def allows_skip(self, snapshot: Snapshot) -> bool:
        """Return True if the receivers need not run, as far as the earlier runs tell."""
        if self.release is not None:
            return snapshot.is_released(self.release)
        return not self.always

    def accepts(self, snapshot: Snapshot) -> bool:
        """Return True if a run that made this build ready has run the receivers in this start.

        The run of another build or release has run other receivers.
        """
        if not self.always:
            return self.allows_skip(snapshot)
        return snapshot.own_suffices and not snapshot.superseded
