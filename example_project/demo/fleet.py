"""The replicas: processes that wait at a barrier and start at the same moment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

MANAGE = Path(__file__).resolve().parent.parent / "manage.py"
# Each shell reads one newline, a single byte, from the shared pipe and becomes the replica.
# If the pipe closes without a newline, the demo has died, and the shell exits.
BARRIER = 'read -r _ || exit 1; exec "$@" </dev/null'


@dataclass
class Replica:
    """One process and its output."""

    number: int
    process: subprocess.Popen[bytes]
    output: IO[bytes]
    errors: IO[bytes]
    ended_after: float | None = None
    killed: bool = False
    _report: dict[str, Any] = field(default_factory=dict)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def exit_code(self) -> int | None:
        """The exit code; a negated signal number if a signal ended it, None while it runs."""
        return self.process.returncode

    @property
    def has_output(self) -> bool:
        """True if the replica has written a line for people, and has therefore started."""
        return os.fstat(self.errors.fileno()).st_size > 0

    @property
    def report(self) -> dict[str, Any]:
        """The JSON object that `safe_migrate --json` prints last, or an empty dictionary."""
        if not self._report:
            try:
                self._report = json.loads(self._read(self.output))
            except ValueError:
                return {}
        return self._report

    @property
    def error_text(self) -> str:
        return self._read(self.errors)

    def _read(self, file: IO[bytes]) -> str:
        file.seek(0)
        return file.read().decode(errors="replace")


class Fleet:
    """`size` processes of one management command. Leaving the context kills all of them.

    `guarded` is True if the processes should agree on a leader.
    """

    noun = "replica"

    def __init__(
        self,
        size: int,
        arguments: list[str],
        environment: Mapping[str, str],
        *,
        guarded: bool = False,
    ) -> None:
        self.size = size
        self.guarded = guarded
        self.replicas: list[Replica] = []
        self._arguments = [sys.executable, str(MANAGE), *arguments]
        self._environment = {**project_environment(), **environment}
        self._barrier = -1
        self._released_at = 0.0

    def __enter__(self) -> Fleet:
        reading, self._barrier = os.pipe()
        try:
            for number in range(1, self.size + 1):
                self.replicas.append(self._spawn(number, reading))
        except BaseException:
            self._end()
            raise
        finally:
            os.close(reading)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    def start(self) -> None:
        """Open the barrier."""
        self._released_at = time.monotonic()
        os.write(self._barrier, b"\n" * self.size)

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._released_at

    def poll(self) -> bool:
        """Record the processes that have ended. Return True while any runs."""
        for replica in self.replicas:
            if replica.ended_after is None and replica.process.poll() is not None:
                replica.ended_after = self.elapsed
        return any(replica.ended_after is None for replica in self.replicas)

    @property
    def over(self) -> bool:
        return all(replica.ended_after is not None for replica in self.replicas)

    @property
    def members(self) -> list[Replica]:
        return self.replicas

    @property
    def labels(self) -> tuple[str, ...]:
        if self.guarded:
            return ("starting", "waiting", "ready", "failed", "killed")
        return ("running", "exited 0", "failed")

    def label(self, replica: Replica) -> str:
        if replica.killed:
            return "killed"
        if replica.exit_code:
            return "failed"
        if replica.exit_code == 0:
            return "ready" if self.guarded else "exited 0"
        if not self.guarded:
            return "running"
        return "waiting" if replica.has_output else "starting"

    def leader(self, pid: int) -> Replica | None:
        replica = self.find(pid)
        return replica if replica and replica.exit_code is None else None

    def find(self, pid: int) -> Replica | None:
        return next((replica for replica in self.replicas if replica.pid == pid), None)

    def kill(self, replica: Replica) -> None:
        """Kill the replica with SIGKILL, as the kernel's OOM killer does."""
        replica.killed = True
        replica.process.send_signal(signal.SIGKILL)

    def _spawn(self, number: int, barrier: int) -> Replica:
        # Unnamed files need no removal if the demo is killed.
        output, errors = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115
        process = subprocess.Popen(
            ["/bin/sh", "-c", BARRIER, "replica", *self._arguments],
            stdin=barrier,
            stdout=output,
            stderr=errors,
            env=self._environment,
            # A separate session: Ctrl-C reaches only the demo, which then ends the replicas.
            start_new_session=True,
        )
        return Replica(number, process, output, errors)

    def _end(self) -> None:
        if self._barrier >= 0:
            os.close(self._barrier)
        for replica in self.replicas:
            if replica.process.poll() is None:
                replica.process.kill()
        for replica in self.replicas:
            replica.process.wait()
            replica.output.close()
            replica.errors.close()


def project_environment() -> dict[str, str]:
    """Return the environment without the variables that would change the demo's processes."""
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "mysite.settings"}
    for name in (
        "DB_INIT_MODE",
        "SHOP_STOCK",
        "DJANGO_AUTO_COMPLETE",
        "GUNICORN_CMD_ARGS",
        "PYTHONDEVMODE",
        "PYTHONINSPECT",
        "WEB_CONCURRENCY",
    ):
        environment.pop(name, None)
    return environment
