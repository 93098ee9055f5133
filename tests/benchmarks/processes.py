"""A leader and a fleet of waiters as processes, observed from outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.support import wait_until

#: The timeout for each event, in seconds. It is generous, because the limits judge the figures.
PATIENCE = 120.0


class Group:
    """A process and its children. Leaving the context kills the remaining ones."""

    def __init__(
        self, *arguments: str, folder: Path, environment: Mapping[str, str]
    ) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - __exit__ closes it
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Group:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()
        self._reader.join()
        self.process.stdin.close()
        self.process.stdout.close()
        self._errors.close()

    def kill(self) -> None:
        """Send SIGKILL to all processes, and wait for the end of the first one."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def finish(self) -> None:
        """Wait for the end of the first process. Raise `AssertionError` if it failed."""
        code = self.process.wait(PATIENCE)
        self._reader.join()
        if code:
            raise AssertionError(f"exit code {code}: {self.errors()}")

    def errors(self) -> str:
        """Return the end of the processes' standard error."""
        self._errors.seek(0)
        return self._errors.read()[-3000:]

    def _read(self) -> None:
        for line in self.process.stdout:
            self.got(line)

    def got(self, line: str) -> None:
        """Handle a line of standard output."""


class Fleet(Group):
    """Waiters, `threads` in each of `processes`, which have finished their imports."""

    def __init__(
        self,
        processes: int,
        threads: int,
        *,
        folder: Path,
        environment: Mapping[str, str],
    ) -> None:
        self.size = processes * threads
        self.events: list[dict[str, Any]] = []
        self._imported = threading.Event()
        arguments = ("-m", "tests.benchmarks.fleet", str(processes), str(threads))
        super().__init__(*arguments, folder=folder, environment=environment)

    def got(self, line: str) -> None:
        if line.startswith("{"):
            self.events.append(json.loads(line))
        elif line == "imported\n":
            self._imported.set()

    def go(self) -> float:
        """Make all waiters call `initialize()`. Return the time."""
        if not self._imported.wait(PATIENCE):
            raise AssertionError(f"the fleet did not start: {self.errors()}")
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return time.time()

    def ends(self) -> list[dict[str, Any]]:
        """Return the last events of the waiters that have ended."""
        return [event for event in list(self.events) if "error" in event]

    def reached(self, state: str) -> list[float]:
        """Return the times at which waiters entered a state, earliest first."""
        events = list(self.events)
        return sorted(event["at"] for event in events if event.get("state") == state)

    def until_waiting(self) -> None:
        """Return when every waiter has requested the lock."""
        wait_until(
            lambda: len(self.reached("acquiring_lock")) >= self.size,
            PATIENCE,
            lambda: f"{len(self.reached('acquiring_lock'))} wait; {self.errors()}",
        )

    def until_done(self) -> list[dict[str, Any]]:
        """Wait for the end of all waiters, and return their last events."""
        wait_until(
            lambda: len(self.ends()) == self.size,
            PATIENCE,
            lambda: f"{len(self.ends())} of {self.size} are done; {self.errors()}",
        )
        return self.ends()
