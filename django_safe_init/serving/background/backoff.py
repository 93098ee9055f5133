"""The schedule of initializations in the background: when to try, and when to try again.

After a failed run, the runs in the database tell the pause before the next one, so that all
processes of a fleet wait for about the same moment.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import closing
from itertools import takewhile

from django_safe_init.conf import get_settings
from django_safe_init.core.build import Build
from django_safe_init.core.deadline import Deadline
from django_safe_init.core.records import (
    ConnectionEnded,
    RunRow,
    TablesLocked,
    TablesUnreadable,
)
from django_safe_init.core.states import State
from django_safe_init.exceptions import SafeInitError
from django_safe_init.initialization.release import ReceiverPolicy
from django_safe_init.status import Status, open_reader, read_history, read_status

#: The pause after the first failed run, and the maximum, in seconds. Each further failure
#: doubles the pause.
MIN_PAUSE, MAX_PAUSE = 5.0, 300.0
#: After this many failed runs in a row, the pause is the maximum.
_MAX_RUNS = 8


def backoff(failures: int) -> float:
    """Return the seconds to wait after this many failures in a row."""
    return min(MIN_PAUSE * 2.0 ** (failures - 1), MAX_PAUSE)


def is_idle(status: Status) -> bool:
    """Return True if the database is reachable, has no leader, and is not ready for all tenants."""
    return not (status.complete or status.led or status.state is State.CONNECTING)


def seconds_until_retry(status: Status, runs: Sequence[RunRow], build: str) -> float:
    """Return the seconds until an initialization may start; 0 or less if it may start now.

    `runs` are the newest runs, newest first; `build` is the fingerprint of the current build.
    """
    if not is_idle(status):
        return math.inf
    own = [run for run in runs if run.build == build]
    failed = list(takewhile(lambda run: run.outcome == "failed", own))
    if not failed:
        return 0.0
    seconds_since = failed[0].age_seconds - failed[0].duration_seconds
    return backoff(len(failed)) - seconds_since


def seconds_until_due(alias: str, build: Build) -> float:
    """Return `seconds_until_retry` for the alias, read from the database now.

    Returns infinity if the database cannot be read. The poller logs the reason.
    """
    try:
        reader = open_reader(alias, get_settings(), Deadline(0), build)
        with closing(reader):
            status = read_status(alias, reader)
            runs = read_history(alias, reader, _MAX_RUNS)
    except SafeInitError:
        return math.inf
    return seconds_until_retry(status, runs, build.fingerprint)


def receivers_are_due(
    aliases: Iterable[str], build: Build, server_seconds: float
) -> bool:
    """Return True if the receivers of the migrate signals must run on a ready database.

    `server_seconds` is how long ago the server was started. Without a release a run since then
    is enough. A database that cannot be read counts as due: the child reports the reason.
    """
    policy = ReceiverPolicy.of(get_settings())
    if policy == ReceiverPolicy():
        return False
    try:
        return any(_lacks_run(each, build, policy, server_seconds) for each in aliases)
    except (SafeInitError, TablesLocked, TablesUnreadable, ConnectionEnded):
        return True


def _lacks_run(
    alias: str, build: Build, policy: ReceiverPolicy, server_seconds: float
) -> bool:
    reader = open_reader(alias, get_settings(), Deadline(0), build)
    with closing(reader):
        snapshot = reader.read()
    own = snapshot.own
    if own is None or not policy.accepts(snapshot):
        return True
    return policy.always and own.age_seconds - own.duration_seconds > server_seconds
