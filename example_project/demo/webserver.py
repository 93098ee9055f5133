"""gunicorn with the shop, and the state of its workers according to its log."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit

from .errors import DemoError
from .fleet import project_environment

#: The folder of the shop and of its `gunicorn.conf.py`.
FOLDER = Path(__file__).resolve().parent.parent
COMMAND = ["-m", "gunicorn", "--bind", "127.0.0.1:0", "--no-control-socket"]
# Reads a line at the end. If the pipe closes without a line, the demo has died, and gunicorn must
# end, too.
GUARD = 'read -r _ || kill -TERM "$0"'
LINE = re.compile(rb"^\[[^]]*\] \[(\d+)\] \[\w+\] (.*)$", re.MULTILINE)
LISTENING = re.compile(r"Listening at: (http://\S+)")
BOOTING = re.compile(r"Booting worker with pid: (\d+)")
CHILD = re.compile(r"Initializing in the background, in process (\d+)")
LABELS = (
    ("default is ready for this process", "ready"),
    ("default is not ready", "waiting"),
)
STARTING_SECONDS = 20.0
ENDING_SECONDS = 20.0
BROWSER = {"Accept": "text/html"}


@dataclass
class Worker:
    """A worker process and the child process that it has started to initialize."""

    number: int
    pid: int
    label: str = "starting"
    child: int = 0

    def update(self, text: str) -> None:
        """Update the worker's state from one of its log lines."""
        if match := CHILD.match(text):
            self.child = int(match[1])
        for beginning, label in LABELS:
            if text.startswith(beginning):
                self.label = label


class WebServer:
    """gunicorn on a free port of the loopback interface. Leaving the context ends all processes."""

    noun = "worker"
    labels = ("starting", "waiting", "ready")
    guarded = True

    def __init__(self, size: int, environment: Mapping[str, str]) -> None:
        self.size = size
        self.url = ""
        self.members: list[Worker] = []
        self._environment = {**project_environment(), **environment}
        self._started_at = time.monotonic()
        self._read_bytes = 0

    def __enter__(self) -> WebServer:
        # An unnamed file needs no removal if the demo is killed.
        self._log = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [sys.executable, *COMMAND, "--workers", str(self.size)],
            cwd=FOLDER,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            # A separate session: Ctrl-C reaches only the demo, which then ends gunicorn.
            start_new_session=True,
        )
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", GUARD, str(self._process.pid)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(ENDING_SECONDS)
        with suppress(
            ProcessLookupError
        ):  # Raised if all processes of the group have ended.
            self._wait_for_the_group()
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._guard.communicate(b"\n")
        self._log.close()

    def _wait_for_the_group(self) -> None:
        """Wait until the workers, without their master, and the leader have ended."""
        deadline = time.monotonic() + ENDING_SECONDS
        while time.monotonic() < deadline:
            os.killpg(self._process.pid, 0)
            time.sleep(0.05)

    def wait_until_it_listens(self) -> None:
        """Wait until gunicorn has logged its URL."""
        while not self.url:
            self.poll()
            if self.elapsed > STARTING_SECONDS:
                raise DemoError("gunicorn does not listen.", 1)
            time.sleep(0.05)

    def poll(self) -> None:
        """Read the log, and raise `DemoError` if gunicorn has ended."""
        for pid, text in self._new_lines():
            if match := LISTENING.match(text):
                self.url = match[1]
            elif match := BOOTING.match(text):
                self.members.append(Worker(len(self.members) + 1, int(match[1])))
            for worker in self.members:
                if worker.pid == pid:
                    worker.update(text)
        if self._process.poll() is not None:
            last = self._last_line()
            code = self._process.returncode
            raise DemoError(f"gunicorn has ended, with exit code {code}: {last}", 1)

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._started_at

    @property
    def over(self) -> bool:
        ready = [worker for worker in self.members if worker.label == "ready"]
        return len(ready) >= self.size

    def label(self, worker: Worker) -> str:
        return worker.label

    def leader(self, pid: int) -> Worker | None:
        """Return the worker whose child leads, until the worker itself is ready."""
        for worker in self.members:
            if worker.child == pid and worker.label != "ready":
                return worker
        return None

    def answer(self) -> int:
        """Return the status code that a browser gets for `/`, or 0 without a response."""
        connection = HTTPConnection(urlsplit(self.url).netloc, timeout=2)
        try:
            connection.request("GET", "/", headers=BROWSER)
            return connection.getresponse().status
        except (OSError, HTTPException):
            return 0
        finally:
            connection.close()

    def _new_lines(self) -> list[tuple[int, str]]:
        """Return the whole lines that are new in the log, each with its process id."""
        # Not read(): the writing processes share the file's position.
        new = os.pread(self._log.fileno(), 1 << 20, self._read_bytes)
        new = new[: new.rfind(b"\n") + 1]
        self._read_bytes += len(new)
        return [
            (int(pid), text.decode(errors="replace")) for pid, text in LINE.findall(new)
        ]

    def _last_line(self) -> str:
        text = os.pread(self._log.fileno(), 1 << 20, 0).decode(errors="replace")
        return text.strip().rpartition("\n")[2]
