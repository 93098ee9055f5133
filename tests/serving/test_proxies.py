"""The proxies of `example_project/deploy` in front of web servers that start."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.processes.harness import Fleet
from tests.serving.harness import BROWSER, LIVE, READY, Answer, Server
from tests.serving.proxies import Proxy, came_from, haproxy, nginx
from tests.support import Database, wait_until

#: The old build has the scenario's first migration, the new one has all.
OLD, NEW = "portable", "gated"
Serve = Callable[..., Server]


@pytest.fixture
def replica(serve: Serve) -> Callable[[str], Server]:
    """Start a web server of a build, with an access log."""
    return lambda scenario: serve("--access-logfile=-", scenario=scenario)


def requested(server: Server) -> list[str]:
    """Return the paths of the web server's access log."""
    lines = server.replica.stdout.splitlines()
    return [line.split('"')[1].split()[1] for line in lines if '"' in line]


def initialize(fleet: Fleet, scenario: str) -> None:
    """Run a leader of the build until it is done."""
    fleet.allow()
    leader = fleet.run("safe_migrate", scenario=scenario)
    assert leader.wait() == 0, leader


def wait_until_served(proxy: Proxy) -> None:
    proxy.wait_for(lambda answer: answer.status == 200, "/sync/")


def wait_until_checked(proxy: Proxy, *, sends_to: Server | None) -> None:
    """Wait for HAProxy's first checks: until then it sends requests to every replica."""
    worker = sends_to and sends_to.get(LIVE).worker

    def settled(answer: Answer) -> bool:
        every = [answer, *proxy.get_often("/sync/")]
        assert {each.status for each in every} <= {200, 503}
        return {came_from(each) for each in every} == {worker}

    proxy.wait_for(settled, "/sync/")


def test_haproxy_as_the_gate(fleet: Fleet, replica: Callable[[str], Server]) -> None:
    """Until ready, HAProxy sends a replica only health checks."""
    server = replica(NEW)
    with haproxy([server], fallback=False) as proxy:
        wait_until_checked(proxy, sends_to=None)
        for _ in range(10):
            answer = proxy.get("/entries/", BROWSER)
            assert (answer.status, came_from(answer)) == (503, None)
        assert "/entries/" not in requested(server)
        wait_until(lambda: READY in requested(server))
        initialize(fleet, NEW)
        wait_until_served(proxy)
        assert proxy.get("/entries/").json == {"entries": ["gate", "data"]}


def test_haproxy_shows_the_page(fleet: Fleet, replica: Callable[[str], Server]) -> None:
    """While no replica is ready, HAProxy passes on the page of a live one."""
    server = replica(NEW)
    with haproxy([server]) as proxy:
        page = proxy.wait_for(came_from, "/entries/?a=b")
        assert page.status == 503
        assert "retry-after" in page.headers
        page = proxy.get("/entries/?a=b", BROWSER)
        assert page.headers["content-type"].startswith("text/html")
        initialize(fleet, NEW)
        wait_until_served(proxy)


def test_haproxy_during_a_rollout(
    fleet: Fleet, replica: Callable[[str], Server]
) -> None:
    """The old build serves all requests until the new one is ready; then both serve."""
    initialize(fleet, OLD)
    old, new = replica(OLD), replica(NEW)
    old.wait_until_ready()
    with haproxy([old, new]) as proxy:
        wait_until_checked(proxy, sends_to=old)
        answers = proxy.get_often("/sync/")
        assert {each.status for each in answers} == {200}
        assert {came_from(each) for each in answers} == {old.get(LIVE).worker}
        initialize(fleet, NEW)
        both = {old.get(LIVE).worker, new.get(LIVE).worker}
        seen: set[int | None] = set()

        def share(answer: object) -> bool:
            found = proxy.get_often("/sync/")
            assert {each.status for each in found} == {200}
            seen.update(came_from(each) for each in found)
            return seen == both

        proxy.wait_for(share, "/sync/")
    wait_until(lambda: READY in requested(old))


def test_nginx_passes_the_page_on(
    fleet: Fleet, replica: Callable[[str], Server]
) -> None:
    """While no replica is ready, nginx passes on a replica's page, never its own 502."""
    servers = [replica(NEW), replica(NEW)]
    with nginx(servers) as proxy:
        for _ in range(10):
            page = proxy.get("/entries/", BROWSER)
            assert page.status == 503
            assert came_from(page)
            assert "retry-after" in page.headers
        initialize(fleet, NEW)
        for server in servers:
            server.wait_until_ready()
        assert proxy.get("/entries/").json == {"entries": ["gate", "data"]}


def test_nginx_during_a_rollout(
    fleet: Fleet, database: Database, replica: Callable[[str], Server]
) -> None:
    """nginx repeats a request at a ready replica after one that is not ready."""
    initialize(fleet, OLD)
    old, new = replica(OLD), replica(NEW)
    old.wait_until_ready()
    with nginx([old, new]) as proxy:
        answers = proxy.get_often("/sync/")
        assert {each.status for each in answers} == {200}
        assert {came_from(each) for each in answers} == {old.get(LIVE).worker}
    # gunicorn logs a request after its response.
    wait_until(lambda: "/sync/" in requested(new))
