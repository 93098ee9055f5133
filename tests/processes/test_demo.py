"""The demo shows its scenes and leaves no processes or files."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from tests.serving.harness import BROWSER
from tests.support import PATIENCE, wait_until

MANAGE = Path(__file__).parents[2] / "example_project" / "manage.py"
TAKEOVER = ("--replicas", "3", "--kill-leader")


class Demo:
    """A running demo with its temporary files in a folder of this test."""

    def __init__(self, directory: Path, *arguments: str, **variables: str) -> None:
        ours = ("DATABASE_URL", "DJANGO_SETTINGS_MODULE")
        environment = {
            name: os.environ[name] for name in os.environ if name not in ours
        }
        temporary = directory / "temporary"
        temporary.mkdir()
        self.temporary = temporary
        self._printed = directory / "printed"
        with self._printed.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, str(MANAGE), "demo", *arguments],
                env={**environment, "TMPDIR": str(temporary), **variables},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def output(self) -> str:
        return self._printed.read_text()

    def wait(self, timeout: float = PATIENCE) -> int:
        return self.process.wait(timeout)

    def wait_for(self, text: str) -> str:
        """Wait for a match in the demo's output, and return the matched text."""
        found = wait_until(
            lambda: (
                re.search(text, self.output) or self.process.poll() is not None or None
            ),
            PATIENCE,
            lambda: self.output,
        )
        assert isinstance(found, re.Match), self.output
        return found[0]

    def get(self, path: str) -> tuple[int, str]:
        """Return the response of the demo's web server to a browser."""
        url = self.wait_for(r"http://127\.0\.0\.1:\d+") + path
        try:
            with urlopen(Request(url, headers=BROWSER), timeout=20) as response:
                return response.status, response.read().decode()
        except HTTPError as answer:
            with answer:
                return answer.code, answer.read().decode()

    def assert_nothing_is_left(self) -> None:
        wait_until(
            lambda: not self.processes() and not list(self.temporary.iterdir()),
            30,
            lambda: f"{self.processes()} {list(self.temporary.iterdir())}",
        )

    def processes(self) -> list[str]:
        """Return the command lines of all processes that have the folder in their environment."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                command = (folder / "cmdline").read_bytes()
                everything = command + (folder / "environ").read_bytes()
            except OSError:
                continue
            if os.fsencode(self.temporary) in everything:
                found.append(command.replace(b"\0", b" ").decode(errors="replace"))
        return found


@pytest.fixture
def start() -> Iterator[Callable[..., Demo]]:
    """Start a demo with these arguments. Kill it at the end if it still runs.

    The folder is not pytest's, because each new session of pytest makes its folder unreadable for
    the user as which the database server runs.
    """
    started: list[Demo] = []

    def start_with(*arguments: str, slow: float = 1) -> Demo:
        started.append(Demo(Path(folder), *arguments, SHOP_SLOW_SECONDS=str(slow)))
        return started[-1]

    with tempfile.TemporaryDirectory() as folder:
        yield start_with
        for demo in started:
            demo.process.kill()
            demo.process.wait()


def test_it_shows_a_takeover_and_leaves_nothing(start: Callable[..., Demo]) -> None:
    """The demo kills the leader, shows the takeover, passes every check and leaves nothing."""
    demo = start(*TAKEOVER)
    assert demo.wait() == 0, demo.output
    assert "took over" in demo.output
    assert "✗" not in demo.output
    assert len(re.findall("✓", demo.output)) >= 5, demo.output
    demo.assert_nothing_is_left()


def test_it_shows_the_schemas_of_tenants(start: Callable[..., Demo]) -> None:
    """With `--tenants` each schema has a cell, and each migration runs once in each schema."""
    demo = start("--tenants", "8")
    assert demo.wait() == 0, demo.output
    assert "took over" in demo.output
    assert "✗" not in demo.output
    assert demo.output.count("■") == 8
    assert "0 pending, 8 done, 0 failed" in demo.output
    assert "recorded once in each of 8 schemas" in " ".join(demo.output.split())
    assert len(re.findall("✓", demo.output)) == 5, demo.output
    demo.assert_nothing_is_left()


def test_it_leaves_nothing_when_it_is_interrupted(start: Callable[..., Demo]) -> None:
    """Ctrl-C ends the replicas and the server, and removes the files."""
    demo = start(*TAKEOVER)
    wait_until(lambda: "postgresql" in str(demo.processes()), message="the server")
    demo.process.send_signal(signal.SIGINT)
    assert demo.wait() == 130, demo.output
    demo.assert_nothing_is_left()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves(start: Callable[..., Demo], number: signal.Signals) -> None:
    """A browser gets the page, then the shop, until a signal ends the demo."""
    demo = start("--serve", slow=5)
    status, page = demo.get("/")
    assert (status, "<!doctype html>" in page.lower()) == (503, True)
    assert demo.get("/health/live")[0] == 200
    demo.wait_for("leads")
    demo.wait_for("serves until Ctrl-C")
    assert "✗" not in demo.output
    assert len(re.findall("✓", demo.output)) == 7, demo.output
    status, shop = demo.get("/")
    assert (status, "Espresso beans" in shop) == (200, True)
    demo.process.send_signal(number)
    assert demo.wait() == 128 + number, demo.output
    assert "Traceback" not in demo.output
    demo.assert_nothing_is_left()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_it_is_ended_before_it_serves(
    start: Callable[..., Demo], number: signal.Signals
) -> None:
    """A signal during a migration, even SIGKILL, leaves no processes or files."""
    demo = start("--serve", slow=60)
    demo.wait_for("now catalog.0013_backfill_prices")
    demo.process.send_signal(number)
    code = demo.wait()
    assert (code if code > 0 else 128 - code) == 128 + number, demo.output
    demo.assert_nothing_is_left()


def test_its_server_ends(start: Callable[..., Demo]) -> None:
    """The demo fails with one sentence if gunicorn dies."""
    demo = start("--serve", slow=60)
    demo.wait_for("leads")
    [master] = [
        pid for pid in children(demo.process.pid) if b"gunicorn" in command(pid)
    ]
    os.kill(master, signal.SIGKILL)
    assert demo.wait() == 1, demo.output
    assert "gunicorn has ended, with exit code -9" in demo.output.splitlines()[-1]
    demo.assert_nothing_is_left()


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in tasks.split()]


def command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--serve", "--compare"], "leave out --compare."),
        (["--serve", "--kill-leader", "--replicas=3"], "leave out --replicas and --kill-leader."),
        (["--replicas=0"], "must be a whole number from 1 to 200, not '0'."),
        (["--replicas=1", "--kill-leader"], "needs 2 replicas: one must take over."),
        (["--replicas=1", "--tenants=9"], "--tenants needs 2 replicas: one must take over."),
        (["--tenants=3"], "--tenants must be a whole number from 4 to 1000, not '3'."),
        (["--tenants=9", "--serve"], "leave out --tenants."),
        (["--tenants=9", "--compare"], "leave out --compare and --kill-leader."),
    ],
)  # fmt: skip
def test_bad_options(
    start: Callable[..., Demo], arguments: list[str], sentence: str
) -> None:
    """The demo refuses contradictory options with one sentence."""
    demo = start(*arguments)
    assert demo.wait() == 2, demo.output
    assert demo.output.rstrip().endswith(sentence)
    assert len(demo.output.splitlines()) == 1
    demo.assert_nothing_is_left()
