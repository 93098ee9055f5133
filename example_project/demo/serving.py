"""The scene of `demo --serve`: a web server that initializes its database itself."""

from __future__ import annotations

import importlib.util
import os
import time

from django_safe_init.conf import get_settings

from .checks import Check
from .errors import DemoError
from .observer import Observer
from .report import print_checks
from .scenes import LIMIT_SECONDS, POLL_SECONDS, Stage, headline, left_behind
from .servers import EmbeddedServer, describe, fresh_database
from .views import make_view
from .webserver import WebServer

WORKERS = 4
# Long enough to open the page, unless the environment sets another time.
SLOW_SECONDS = "15"
ASKING_SECONDS = 0.5
RUNS = "SELECT outcome, done, total FROM django_safe_init_run"


def serve(stage: Stage) -> bool:
    """Show the start of the workers, then serve until a signal. Return False if a check fails."""
    if importlib.util.find_spec("gunicorn") is None:
        raise DemoError("The demo needs gunicorn: pip install -e '.[demo]'", 2)
    stage.say(f"The shop on {describe(stage.server)}", "dim")
    command = 'gunicorn, SAFE_INIT = {"SERVE": "initialize"}'
    headline(stage, "A server that initializes itself", f"{command}, {WORKERS} workers")
    with (
        fresh_database(stage.server) as database,
        WebServer(WORKERS, _environment(stage, database)) as server,
    ):
        server.wait_until_it_listens()
        _print_urls(stage, server)
        with Observer(stage.server.connect(database)) as observer:
            _watch(stage, server, observer)
        stage.say()
        found = [*_checks(stage, server, database), *left_behind(stage, database)]
        good = print_checks(stage.console, found)
        if good:
            stage.say(f"\n{server.url}/ serves until Ctrl-C.")
            _serve_on(server)
    return good


def _environment(stage: Stage, database: str) -> dict[str, str]:
    """Return the environment of a production server, which shows the page for users."""
    server = stage.server
    # What a server that is killed leaves among its temporary files goes with the database.
    temporary = (
        {"TMPDIR": str(server.directory)} if isinstance(server, EmbeddedServer) else {}
    )
    return {
        **stage.environment(database),
        **temporary,
        "DEBUG": "0",
        "SHOP_SERVE": "initialize",
        "SHOP_SLOW_SECONDS": os.environ.get("SHOP_SLOW_SECONDS", SLOW_SECONDS),
    }


def _print_urls(stage: Stage, server: WebServer) -> None:
    paths = get_settings().paths
    stage.say()
    for path, text in (
        ("/", "the shop, and until then the page"),
        (paths["status"], "how far it is, as JSON or as a page"),
        (paths["ready"], "for a readiness probe"),
        (paths["live"], "for startup and liveness probes"),
    ):
        stage.say(f"  {server.url + str(path):40} {text}")


def _watch(stage: Stage, server: WebServer, observer: Observer) -> None:
    """Show the workers until all of them are ready."""
    note, asked_at = "", 0.0
    with make_view(stage.console) as view:
        while not server.over and server.elapsed < LIMIT_SECONDS:
            server.poll()
            if time.monotonic() - asked_at > ASKING_SECONDS:
                asked_at = time.monotonic()
                note = f"GET / answers {server.answer()}"
            view.show(server, observer.poll(), note)
            time.sleep(POLL_SECONDS)


def _checks(stage: Stage, server: WebServer, database: str) -> list[Check]:
    with stage.server.connect(database) as connection:
        runs = connection.execute(RUNS).fetchall()
    outcome, done, total = runs[-1] if runs else ("nothing", 0, 0)
    answers = {server.answer() for _ in range(2 * server.size)}
    return [
        Check(
            server.over,
            f"all {server.size} workers are ready, {server.elapsed:.1f} s after the start",
        ),
        Check(
            [row[0] for row in runs] == ["ready"],
            f"{len(runs)} run, {done} of {total} migrations, ended as {outcome}",
        ),
        Check(answers == {200}, f"GET / answers {', '.join(map(str, answers))}"),
    ]


def _serve_on(server: WebServer) -> None:
    """Serve until a signal or the end of the web server raises an exception."""
    while True:
        server.poll()
        time.sleep(POLL_SECONDS)
