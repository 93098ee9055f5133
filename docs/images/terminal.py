"""Renews `terminal.svg`: what `manage.py demo --serve` shows in the middle of its work.

python docs/images/terminal.py
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import sys
import termios
from pathlib import Path

from rich.console import Console
from rich.text import Text

HERE = Path(__file__).parent
COMMAND = "example_project/manage.py demo --serve"
COLUMNS, LINES = 80, 24
#: What is on the screen when the picture is taken.
MOMENT = re.compile(r"29 of 47.*GET / answers 503.*elapsed +5", re.DOTALL)
#: rich would load its font from the network.
FONT = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)
CONTROL = re.compile(rb"(\r?\n|\r|\x1b\[1A|\x1b\[2K|\x1b\[\?25[lh])")


def start() -> tuple[int, int]:
    """The demo in a terminal of its own: its pid, and our end of the terminal."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "xterm-256color"
        os.execv(sys.executable, [sys.executable, *COMMAND.split()])
    size = struct.pack("HHHH", LINES, COLUMNS, 0, 0)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, size)
    return pid, terminal


def screen(printed: bytes) -> str:
    """The lines that are to be seen, with their colors: rich moves up, and erases lines."""
    lines, at = [""], 0
    for part in CONTROL.split(printed):
        if part.endswith(b"\n"):
            at += 1
            lines += [""] * (at + 1 - len(lines))
        elif part == b"\x1b[1A":
            at -= 1
        elif part == b"\x1b[2K":
            lines[at] = ""
        elif not CONTROL.fullmatch(part):
            lines[at] += part.decode(errors="replace")
    return "\n".join(lines)


def main() -> None:
    """Run it, wait for the moment, draw it, end it."""
    os.chdir(HERE.parents[1])
    pid, terminal = start()
    printed = b""
    while not MOMENT.search(Text.from_ansi(screen(printed)).plain):
        printed += os.read(terminal, 65536)
    os.kill(pid, signal.SIGINT)
    with open(os.devnull, "w") as nothing:
        console = Console(record=True, width=COLUMNS, file=nothing)
        console.print(Text(f"$ python {COMMAND}", style="bold"))
        console.print(Text.from_ansi(screen(printed)))
    svg = console.export_svg(title="demo --serve", unique_id="terminal")
    (HERE / "terminal.svg").write_text(FONT.sub("", svg))
    os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
