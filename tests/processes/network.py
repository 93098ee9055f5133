"""A second host for some processes: a network namespace behind a cable that a test can cut.

The database server of such a test listens at the near end of the cable.
"""

from __future__ import annotations

import ipaddress
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from example_project.embedded import EmbeddedServer

#: Addresses for tests of networks (RFC 2544), which no host uses.
NETWORKS = list(ipaddress.ip_network("198.18.0.0/15").subnets(new_prefix=30))
#: A hardware address that no interface has. Packets to it are dropped without an error.
NOWHERE = "02:00:00:00:00:01"


def _ip(*arguments: str) -> None:
    result = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    assert not result.returncode, f"ip {' '.join(arguments)}: {result.stderr}"


class Cable:
    """A cable between this host and a second one, which is a network namespace."""

    def __init__(self) -> None:
        number = os.getpid() % len(NETWORKS)
        self.network = NETWORKS[number]
        self.here, self.there = (str(host) for host in self.network.hosts())
        self.namespace = f"safe-init-{number}"
        self._near, self._far = f"si{number}a", f"si{number}b"
        #: The prefix of a command that runs on the second host.
        self.wrapper = ["ip", "netns", "exec", self.namespace]

    def lay(self) -> None:
        _ip("link", "add", self._near, "type", "veth",
            "peer", "name", self._far, "netns", self.namespace)  # fmt: skip
        self._set_up([], self._near, self.here)
        self._set_up(["-n", self.namespace], self._far, self.there)

    def _set_up(self, where: list[str], interface: str, address: str) -> None:
        prefix = self.network.prefixlen
        _ip(*where, "address", "add", f"{address}/{prefix}", "dev", interface)
        _ip(*where, "link", "set", interface, "up")

    def cut(self) -> None:
        """Drop all packets in both directions, without an error on either side."""
        self._send_to_nowhere([], self._near, self.there)
        self._send_to_nowhere(["-n", self.namespace], self._far, self.here)

    def _send_to_nowhere(self, where: list[str], interface: str, address: str) -> None:
        _ip(*where, "neighbor", "replace", address, "lladdr", NOWHERE,
            "dev", interface, "nud", "permanent")  # fmt: skip

    def repair(self) -> None:
        for where, interface, address in (
            ([], self._near, self.there),
            (["-n", self.namespace], self._far, self.here),
        ):
            _ip(*where, "neighbor", "delete", address, "dev", interface)


@contextmanager
def cable() -> Iterator[Cable]:
    """Yield a cable to a new host. Skip the test if the machine forbids network namespaces."""
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip(
            "a network namespace needs root and ip(8) (apt-get install iproute2)"
        )
    laid = Cable()
    # Left by a killed test run with the same number.
    subprocess.run(["ip", "netns", "delete", laid.namespace], capture_output=True)
    made = subprocess.run(
        ["ip", "netns", "add", laid.namespace], capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"this machine does not allow network namespaces: {made.stderr}")
    try:
        laid.lay()
        yield laid
    finally:
        # A process that still runs there keeps the namespace, but not the cable.
        subprocess.run(["ip", "link", "delete", laid._near], capture_output=True)
        _ip("netns", "delete", laid.namespace)


class RemoteServer(EmbeddedServer):
    """A database server at the near end of a cable."""

    def __init__(self, cable: Cable) -> None:
        super().__init__(18)
        self.host = cable.here
        self._network = cable.network

    def _initdb(self) -> None:
        super()._initdb()
        with (self.data / "pg_hba.conf").open("a") as file:
            file.write(f"host all all {self._network} trust\n")
