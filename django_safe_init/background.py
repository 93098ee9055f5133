"""A server that initializes its databases itself, in a child process that ends with it."""

from __future__ import annotations

import atexit
import json
import logging
import math
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from itertools import takewhile

from django.conf import ENVIRONMENT_VARIABLE
from django.conf import settings as django_settings

from django_safe_init.build import Build, current_build
from django_safe_init.conf import get_settings
from django_safe_init.deadline import Deadline
from django_safe_init.exceptions import SafeInitError
from django_safe_init.reading import RunRow
from django_safe_init.states import State
from django_safe_init.status import Status, look, open_reader

logger = logging.getLogger("django_safe_init")

#: The first pause after a failed run, and the longest; each is twice the one before.
LEAST_PAUSE, MOST_PAUSE = 5.0, 300.0
#: As many failed runs in a row make the pause the longest.
_RUNS = 8
#: Between two looks at what is known: at random, so that of many processes one is the first.
_SECONDS_BETWEEN_LOOKS = (0.1, 1.0)
#: What is due later is looked at again by then: somebody else may have tried, and died.
_MOST_SECONDS_UNSEEN = 2.0
#: For how long a child may clean up when this process ends.
_SECONDS_TO_END = 3.0


class Child:
    """A process that initializes, and what became of it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "django_safe_init.child"],
            env=_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.pid = self._process.pid

    def result(self) -> tuple[int, str]:
        """Wait for its end; the exit code, and the error of `safe_migrate` if there was one."""
        assert self._process.stdout is not None  # see above
        with self._process.stdout as stdout:
            printed = stdout.read()
        code = self._process.wait()
        self._close_stdin()
        return code, _error(printed) or f"it ended with exit code {code}."

    def end(self) -> None:
        """Let it end as by SIGTERM; returns when it is gone."""
        self._close_stdin()
        try:
            self._process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _close_stdin(self) -> None:
        assert self._process.stdin is not None  # see above
        with suppress(OSError):
            self._process.stdin.close()


def _error(printed: bytes) -> str:
    """What went wrong, from the JSON object; nothing if there is none."""
    try:
        value = json.loads(printed)
    except ValueError:  # it was killed, or could not be started
        return ""
    databases = value.get("databases", [value])
    return " ".join(each["error"] for each in databases if each["error"])


def _environment() -> dict[str, str]:
    """The settings, and where this process has found them, whatever its server is."""
    return {
        **os.environ,
        ENVIRONMENT_VARIABLE: str(django_settings.SETTINGS_MODULE),
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
    }


def pause_after(failures: int) -> float:
    """How many seconds to wait after so many failures in a row."""
    return min(LEAST_PAUSE * 2.0 ** (failures - 1), MOST_PAUSE)


def seconds_to_wait(status: Status, runs: Sequence[RunRow], build: str) -> float:
    """How long to leave a database alone that looks like this; 0 or less: not any longer.

    `runs` are its newest runs, newest first; `build` is the fingerprint of this one.
    """
    if status.ready or status.led or status.state is State.CONNECTING:
        return math.inf
    own = [run for run in runs if run.build == build]
    failed = list(takewhile(lambda run: run.outcome == "failed", own))
    if not failed:
        return 0.0
    return pause_after(len(failed)) - (
        failed[0].age_seconds - failed[0].duration_seconds
    )


class Background(threading.Thread):
    """Sees to it that somebody initializes, until all is ready.

    Where a leader is at work there is nothing to do. Otherwise a child process leads, or
    follows one that was faster. After a failed run the pause before the next one is told by
    the runs in the database: all processes of a fleet wait for about the same moment, and the
    first of them tries for all.
    """

    def __init__(
        self,
        aliases: Iterable[str],
        build: Build | None,
        known: Callable[[str], Status | None],
    ) -> None:
        super().__init__(name="safe_init background", daemon=True)
        self.aliases = tuple(aliases)
        self._build = build
        self._known = known
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._child: Child | None = None
        self._failures = 0
        self._not_before = 0.0

    def run(self) -> None:
        """Look at what is known, and act when it is time."""
        atexit.register(self.stop)
        while not self._stopped.wait(random.uniform(*_SECONDS_BETWEEN_LOOKS)):
            statuses = [self._known(alias) for alias in self.aliases]
            if all(status is not None and status.ready for status in statuses):
                break
            if self._may_be_time(statuses):
                self._act()
        atexit.unregister(self.stop)

    def stop(self) -> None:
        """End the child; returns when both it and this thread have ended."""
        self._stopped.set()
        with self._lock:
            child = self._child
        if child is not None:
            child.end()
        self.join()

    def _may_be_time(self, statuses: Sequence[Status | None]) -> bool:
        """Whether it is worth a closer look."""
        waiting = [status for status in statuses if status and not status.led]
        return bool(waiting) and time.monotonic() >= self._not_before

    def _act(self) -> None:
        seconds = min(map(self._seconds_to_wait, self.aliases))
        if seconds > 0:
            self._leave_alone(min(seconds, _MOST_SECONDS_UNSEEN))
        else:
            self._initialize()

    def _leave_alone(self, seconds: float) -> None:
        self._not_before = time.monotonic() + seconds

    def _seconds_to_wait(self, alias: str) -> float:
        """What is true at this moment, not a second ago: another process may have been faster."""
        self._build = self._build or current_build()
        try:
            reader = open_reader(alias, get_settings(), Deadline(0), self._build)
            with closing(reader):
                status, runs = look(alias, reader), reader.history(_RUNS)
        except SafeInitError:
            return math.inf  # whoever looks out for it tells why
        return seconds_to_wait(status, runs, self._build.fingerprint)

    def _initialize(self) -> None:
        with self._lock:
            if self._stopped.is_set():
                return
            self._child = child = Child()
        logger.info("Initializing in the background, in process %s.", child.pid)
        code, error = child.result()
        with self._lock:
            self._child = None
        if code == 0:
            self._failures = 0
            logger.info("The initialization in the background ended: ready.")
            return
        self._failures += 1
        pause = pause_after(self._failures) * random.uniform(1.0, 1.25)
        self._leave_alone(pause)
        logger.warning(
            "The initialization in the background ended without success: %s Not tried again "
            "here within %.0f s.",
            error,
            pause,
        )
