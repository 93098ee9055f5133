"""What the page shows of the statuses there are."""

from __future__ import annotations

from collections.abc import Sequence

from django.conf import settings as django_settings
from django.http import HttpResponse

from django_safe_init.scene import StatusDetail
from django_safe_init.serving.http.page import DebugContext, PageContext, render
from django_safe_init.serving.http.payloads import PUBLIC_STATES, least_ready
from django_safe_init.status import Status

_COMMAND = "python manage.py safe_migrate"


def page(
    scenes: Sequence[StatusDetail],
    status_url: str | None,
    continue_url: str,
    refresh_seconds: int,
    *,
    sent: bool = False,
    own: bool = False,
) -> HttpResponse:
    """The page about the worst of them, for a person.

    `sent`: instead of what a request that sent something has asked for. `own`: asked for itself.
    """
    found = least_ready([scene.status for scene in scenes])
    scene = next(scene for scene in scenes if scene.status is found)
    run = found.run
    work = run if run and run.open else None
    return render(
        PageContext(
            state=PUBLIC_STATES[found.state],
            run=run.id if run else None,
            done=work.done if work else 0,
            total=work.total if work else 0,
            progress=found.progress,
            elapsed_seconds=work.age_seconds if work else None,
            silence_seconds=work.silence_seconds if work else None,
            remaining_seconds=scene.remaining_seconds,
            status_url=status_url,
            continue_url=continue_url,
            refresh_seconds=refresh_seconds,
            sent=sent,
            stays=own and found.ready,
            debug=_debug(found, scenes) if django_settings.DEBUG else None,
        )
    )


def _debug(found: Status, scenes: Sequence[StatusDetail]) -> DebugContext:
    pending = dict.fromkeys(name for each in scenes for name in each.status.pending)
    leader = found.run.leader if found.run else None
    return DebugContext(tuple(pending), _COMMAND, found.error, leader)
