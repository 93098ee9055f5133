"""`safe_init_status --watch` in a terminal, beside a leader."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from tests.processes.harness import PROJECT, Fleet
from tests.support import PATIENCE, Database, wait_until

SAFE = ["safe_migrate", "--json"]
LINES, COLUMNS = 24, 100
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A `manage.py` process whose standard output is a terminal."""

    def __init__(self, environment: dict[str, str], *arguments: str) -> None:
        self._end, inside = pty.openpty()
        fcntl.ioctl(
            inside, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0)
        )
        self._shown = b""
        self.process = subprocess.Popen(
            [sys.executable, str(PROJECT / "manage.py"), *arguments],
            env={**environment, "TERM": "xterm-256color"},
            stdin=inside,
            stdout=inside,
            stderr=inside,
        )
        os.close(inside)

    @property
    def raw(self) -> str:
        """The complete output so far."""
        with suppress(OSError):  # the other end is closed
            while select.select([self._end], [], [], 0)[0]:
                chunk = os.read(self._end, 65536)
                if not chunk:
                    break
                self._shown += chunk
        return self._shown.decode()

    @property
    def text(self) -> str:
        """The output without colors and cursor movements."""
        return _CONTROL.sub("", self.raw)

    def wait_for(self, text: str) -> None:
        wait_until(lambda: text in self.text, PATIENCE, lambda: self.text)

    def wait(self) -> int:
        wait_until(lambda: self.text and self.process.poll() is not None, PATIENCE)
        return self.process.returncode

    def close(self) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        os.close(self._end)


@pytest.fixture
def watch(fleet: Fleet) -> Iterator[Callable[..., Terminal]]:
    """Start `safe_init_status --watch` in a terminal."""
    started = []

    def start(*more: str) -> Terminal:
        environment = fleet.environment()
        started.append(Terminal(environment, "safe_init_status", "--watch", *more))
        return started[-1]

    yield start
    for terminal in started:
        terminal.close()


def test_a_run_in_a_terminal(
    fleet: Fleet, database: Database, watch: Callable[..., Terminal]
) -> None:
    """The view shows steps, leader, statement, blocker and followers until the build is ready."""
    fleet.use(scenario="gated")
    leader = fleet.start(*SAFE)
    fleet.wait_for_note("inside")
    fleet.start(*SAFE)
    fleet.wait_for_followers(1)
    terminal = watch("--history", "3")
    terminal.wait_for("shop.0002_gate")
    terminal.wait_for(f":{leader.pid}, lock held by backend ")
    terminal.wait_for("1 connected now")
    terminal.wait_for("running")
    with database.connect() as other:
        other.execute("BEGIN; LOCK TABLE auth_permission")
        fleet.allow()
        terminal.wait_for(f"pid {other.info.backend_pid} (role ")
        other.execute("COMMIT")
    assert terminal.wait() == 0
    end = terminal.text[terminal.text.rindex("everything this build knows is done") :]
    assert re.search(r"run +started +took +outcome", end)
    assert re.search(r"1  2.* s  ready    \d+/\d+  safe_migrate", end)
    assert terminal.raw.rindex("\x1b[?25h") > terminal.raw.rindex("\x1b[?25l"), "cursor"


def test_a_step_that_counts(fleet: Fleet, watch: Callable[..., Terminal]) -> None:
    """The live view shows the progress of the running step."""
    fleet.use(scenario="tracking")
    leader = fleet.start(*SAFE)
    fleet.wait_for_note("inside")
    terminal = watch()
    terminal.wait_for("secret rows 2/4")
    fleet.allow()
    assert terminal.wait() == 0
    assert leader.wait() == 0, leader


@pytest.mark.parametrize("variables", [{"PYTHONIOENCODING": "ascii"}, {}])
def test_a_terminal_without_these_characters(
    fleet: Fleet,
    database: Database,
    watch: Callable[..., Terminal],
    variables: dict[str, str],
) -> None:
    """The view and the table of runs escape characters that the terminal's encoding lacks."""
    assert fleet.run("safe_migrate").wait() == 0, fleet
    database.rows("UPDATE django_safe_init_run SET leader = 'größe'")
    fleet.use(env=variables)
    terminal = watch("--history", "3")
    assert terminal.wait() == 0, terminal.text
    shown = r"gr\xf6\xdfe" if variables else "größe"
    assert shown in terminal.text


def test_a_lost_connection_and_the_end_by_hand(
    fleet: Fleet, database: Database, watch: Callable[..., Terminal]
) -> None:
    """The view survives a lost connection; Ctrl-C ends it with a visible cursor."""
    fleet.use(scenario="gated")
    leader = fleet.start(*SAFE)
    fleet.wait_for_note("inside")
    terminal = watch()
    terminal.wait_for("shop.0002_gate")
    [watcher] = database.backends("application_name = 'safe_init status'")
    database.rows("SELECT pg_terminate_backend(%s, 5000)", watcher["pid"])

    def another() -> bool:
        found = database.backends("application_name = 'safe_init status'")
        return any(backend["pid"] != watcher["pid"] for backend in found)

    wait_until(another, PATIENCE)
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.wait() == 130
    assert "Traceback" not in terminal.text
    assert terminal.raw.rindex("\x1b[?25h") > terminal.raw.rindex("\x1b[?25l")
    fleet.allow()
    assert leader.wait() == 0
