"""Debian's HAProxy and nginx with the files of `example_project/deploy`, on loopback ports."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.serving.harness import Answer, Server
from tests.support import PATIENCE, free_port, program, wait_until

DEPLOY = Path(__file__).parents[2] / "example_project" / "deploy"
#: The line by which HAProxy passes on a replica's page while none is ready.
FALLBACK = re.compile(r"^ *use_backend not_ready .*\n", re.MULTILINE)


class Proxy(Server):
    """A proxy on a loopback port that answers requests as a web server does."""

    def __init__(self, port: int, process: subprocess.Popen[bytes]) -> None:
        self.port = port
        self.replica = process


def _replaced(text: str, pattern: str, replacement: str, times: int = 1) -> str:
    """Return the file with these texts replaced; fail if one of them is missing."""
    changed, found = re.subn(pattern, replacement, text, flags=re.MULTILINE)
    assert found == times, pattern
    return changed


@contextmanager
def haproxy(replicas: Sequence[Server], *, fallback: bool = True) -> Iterator[Proxy]:
    """Run HAProxy in front of the replicas; without `fallback` it answers with its own 503."""
    servers = "".join(
        f"    server web{n} 127.0.0.1:{replica.port} check\n"
        for n, replica in enumerate(replicas, 1)
    )
    port = free_port()
    text = (DEPLOY / "haproxy.cfg").read_text()
    text = _replaced(text, r"bind :8080$", f"bind 127.0.0.1:{port}")
    text = _replaced(text, r"^    server-template web .*\n", servers, times=2)
    if not fallback:
        text = _replaced(text, FALLBACK.pattern, "")
    with _running(port, text, [program("haproxy"), "-db", "-f"]) as proxy:
        yield proxy


@contextmanager
def nginx(replicas: Sequence[Server]) -> Iterator[Proxy]:
    """Run nginx in front of the replicas."""
    servers = "".join(
        f"    server 127.0.0.1:{replica.port} max_fails=0;\n" for replica in replicas
    )
    port = free_port()
    text = (DEPLOY / "nginx.conf").read_text()
    text = _replaced(text, r"listen 8080;", f"listen 127.0.0.1:{port};")
    text = _replaced(text, r"(^    server 127\.0\.0\.1:.*\n)+", servers)
    main = (
        "daemon off; master_process off; pid nginx.pid; error_log stderr; events { }\n"
        "http { access_log off; client_body_temp_path body; proxy_temp_path proxy;\n"
        "fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;\n"
    )
    with _running(port, f"{main}{text}}}\n", [program("nginx"), "-c"]) as proxy:
        yield proxy


@contextmanager
def _running(port: int, text: str, command: list[str]) -> Iterator[Proxy]:
    with TemporaryDirectory(prefix="proxy") as directory:
        file = Path(directory) / "configuration"
        file.write_text(text)
        prefix = ["-p", directory] if command[-1] == "-c" else []
        process = subprocess.Popen(
            [command[0], *prefix, *command[1:], str(file)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_until(lambda: _listens(port), message=f"{command[0]} listens")
            yield Proxy(port, process)
        finally:
            process.terminate()
            process.wait(PATIENCE)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE).close()
    except OSError:
        return False
    return True


def came_from(answer: Answer) -> int | None:
    """Return the worker that responded; None if the proxy itself did."""
    return answer.worker if "x-worker" in answer.headers else None
