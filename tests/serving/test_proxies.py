"""The proxies of `example_project/deploy` in front of real servers, while a fleet starts."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.processes.harness import Fleet
from tests.serving.harness import BROWSER, LIVE, READY, Answer, Server
from tests.serving.proxies import Proxy, came_from, haproxy, nginx
from tests.support import Database

#: Their migrations: the first of the scenario's, and all of it.
OLD, NEW = "portable", "gated"
Serve = Callable[..., Server]


@pytest.fixture
def replica(serve: Serve) -> Callable[[str], Server]:
    """Starts a server of a build, which writes down what it is asked."""
    return lambda scenario: serve("--access-logfile=-", scenario=scenario)


def asked(server: Server) -> list[str]:
    """The paths that the server was asked for."""
    lines = server.replica.stdout.splitlines()
    return [line.split('"')[1].split()[1] for line in lines if '"' in line]


def initialize(fleet: Fleet, scenario: str) -> None:
    """Let a leader of that build do all its work."""
    fleet.allow()
    leader = fleet.run("safe_migrate", scenario=scenario)
    assert leader.wait() == 0, leader


def wait_until_served(proxy: Proxy) -> None:
    proxy.wait_for(lambda answer: answer.status == 200, "/sync/")


def wait_until_checked(proxy: Proxy, *, sends_to: Server | None) -> None:
    """Before its first check HAProxy takes a server for healthy; the app holds requests back."""
    worker = sends_to and sends_to.get(LIVE).worker

    def settled(answer: Answer) -> bool:
        every = [answer, *proxy.get_often("/sync/")]
        assert {each.status for each in every} <= {200, 503}
        return {came_from(each) for each in every} == {worker}

    proxy.wait_for(settled, "/sync/")


def test_haproxy_keeps_requests_from_who_is_not_ready(
    fleet: Fleet, replica: Callable[[str], Server]
) -> None:
    """Gate at the balancer: until ready a replica is asked for its health, and nothing else."""
    server = replica(NEW)
    with haproxy([server], fallback=False) as proxy:
        wait_until_checked(proxy, sends_to=None)
        for _ in range(10):
            answer = proxy.get("/entries/", BROWSER)
            assert (answer.status, came_from(answer)) == (503, None)
        assert "/entries/" not in asked(server)
        assert READY in asked(server)
        initialize(fleet, NEW)
        wait_until_served(proxy)
        assert proxy.get("/entries/").json == {"entries": ["gate", "data"]}


def test_haproxy_shows_the_page(fleet: Fleet, replica: Callable[[str], Server]) -> None:
    """Gate in the app: while nobody is ready the page comes from one that is alive."""
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
    """An old build serves everybody until the new one is ready, and then both do."""
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
    assert READY in asked(old)


def test_nginx_passes_the_page_on(
    fleet: Fleet, replica: Callable[[str], Server]
) -> None:
    """While nobody is ready every request gets the page of a replica, never nginx's own 502."""
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
    """A request that met a replica that is not ready is served by one that is."""
    initialize(fleet, OLD)
    old, new = replica(OLD), replica(NEW)
    old.wait_until_ready()
    with nginx([old, new]) as proxy:
        answers = proxy.get_often("/sync/")
        assert {each.status for each in answers} == {200}
        assert {came_from(each) for each in answers} == {old.get(LIVE).worker}
    assert "/sync/" in asked(new)
