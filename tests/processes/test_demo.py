"""The demo, which is the first thing that somebody sees of this project."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import wait_until

MANAGE = Path(__file__).parents[2] / "example_project" / "manage.py"


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A running demo whose temporary files lie in a folder of this test."""
    ours = ("DATABASE_URL", "DJANGO_SETTINGS_MODULE")
    environment = {name: os.environ[name] for name in os.environ if name not in ours}
    environment |= {"TMPDIR": str(tmp_path), "SHOP_SLOW_SECONDS": "1"}
    process = subprocess.Popen(
        [sys.executable, str(MANAGE), "demo", "--replicas", "3", "--kill-leader"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def servers_below(directory: Path) -> list[str]:
    """The processes that name the folder in their command line."""
    found = []
    for status in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = status.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(directory) in command:
            found.append(command)
    return found


def assert_nothing_is_left(directory: Path) -> None:
    wait_until(
        lambda: not servers_below(directory) and not list(directory.iterdir()),
        message=lambda: f"{servers_below(directory)} {list(directory.iterdir())}",
    )


def test_it_shows_a_takeover_and_leaves_nothing(
    demo: subprocess.Popen[str], tmp_path: Path
) -> None:
    """The leader is killed, another takes over, every check holds, and all is gone afterwards."""
    output, _ = demo.communicate(timeout=100)
    assert demo.returncode == 0, output
    assert "took over" in output
    assert "✗" not in output
    assert len(re.findall("✓", output)) >= 5, output
    assert_nothing_is_left(tmp_path)


def test_it_leaves_nothing_when_it_is_interrupted(
    demo: subprocess.Popen[str], tmp_path: Path
) -> None:
    """Ctrl-C in the middle ends the replicas and the server, and removes its files."""
    wait_until(lambda: servers_below(tmp_path), message="the server started")
    demo.send_signal(signal.SIGINT)
    output, _ = demo.communicate(timeout=30)
    assert demo.returncode == 130, output
    assert_nothing_is_left(tmp_path)
