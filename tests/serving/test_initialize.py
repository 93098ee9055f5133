"""Web servers with SERVE = "initialize"."""

from __future__ import annotations

import os
import re
import signal
from contextlib import suppress
from http.client import HTTPException
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from django_safe_init.backends.postgresql.lock_keys import leader_key
from django_safe_init.serving.background.child_process import (
    NOTHING_TO_DO,
    InitializationProcess,
)
from example_project.embedded import free_port
from tests.processes.harness import PROJECT, Fleet, entries
from tests.serving.harness import BROWSER, IGNORING_CHILDREN, READY, Server
from tests.support import Database, wait_until

POOL = {"OPTIONS": {"pool": {"min_size": 1, "max_size": 4}}}
INITIALIZE = {"SERVE": "initialize"}
#: Django's reloader does not reap its child.
NO_WARNINGS = {"PYTHONWARNINGS": "ignore"}
#: The package's log on standard error.
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"stderr": {"class": "logging.StreamHandler"}},
    "loggers": {"django_safe_init": {"handlers": ["stderr"], "level": "INFO"}},
}
LOGGED = {"project": {"LOGGING": LOGGING}}
SLEEPING = "state = 'active' AND query LIKE '%pg_sleep%'"


@pytest.fixture(autouse=True)
def _initialize(fleet: Fleet) -> None:
    fleet.use(scenario="gated", safe_init=INITIALIZE)


def assert_done_once(database: Database) -> None:
    assert entries(database) == ["gate", "data"]
    assert len(database.applied_once()) == 3
    assert [run["outcome"] for run in database.runs()] == ["ready"]


def no_child_is_left(fleet: Fleet) -> bool:
    """Return True if no child that initializes is left in this scenario."""
    return not [pid for pid in children() if is_ours(pid, fleet)]


def children() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def is_ours(pid: int, fleet: Fleet) -> bool:
    """Return True for a child that initializes in this scenario."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as line:
            if b"django_safe_init.serving.background.child_process" not in line.read():
                return False
        with open(f"/proc/{pid}/environ", "rb") as environment:
            return str(fleet.directory).encode() in environment.read()
    except OSError:  # it has just ended
        return False


@pytest.mark.parametrize(
    ("workers", "options", "settings"),
    [
        pytest.param(1, [], {}, id="one", marks=pytest.mark.smoke),
        pytest.param(4, [], {}, id="four"),
        pytest.param(2, ["--threads=4"], {}, id="gthread"),
        pytest.param(2, ["--preload"], {}, id="preload"),
        pytest.param(
            2, ["--preload"], {"database_settings": POOL}, id="preload and pool"
        ),
    ],
)
def test_under_gunicorn(
    fleet: Fleet,
    database: Database,
    serve: Any,
    workers: int,
    options: Any,
    settings: Any,
) -> None:
    """One worker's child leads, requests get the page, and once ready all workers serve."""
    server = serve(*options, workers=workers, **LOGGED, **settings)
    assert {each.status for each in server.get_often(READY)} == {503}
    fleet.wait_for_note("inside")
    assert database.leader_pid() not in {
        each.worker for each in server.get_often(READY)
    }
    page = server.get("/entries/", BROWSER)
    assert (page.status, page.headers["content-type"][:9]) == (503, "text/html")
    fleet.allow()
    server.wait_until_ready(workers)
    assert {each.status for each in server.get_often("/entries/")} == {200}
    assert_done_once(database)
    wait_until(lambda: no_child_is_left(fleet))
    assert server.replica.stderr.count("Initializing in the background, in ") == 1


def test_under_uvicorn(fleet: Fleet, database: Database, serve_async: Any) -> None:
    """Under an ASGI server, one worker's child leads and requests are blocked."""
    server = serve_async()
    assert server.get("/sync/").status == 503
    fleet.wait_for_note("inside")
    fleet.allow()
    server.wait_for(lambda answer: answer.status == 200)
    assert server.get("/sync/").body == "sync"
    assert_done_once(database)


def test_uvicorn_is_told_to_end(
    fleet: Fleet, database: Database, serve_async: Any
) -> None:
    """uvicorn dies by the signal, without Python's cleanup: its child ends too."""
    fleet.use(scenario="statement")
    server = serve_async()
    server.get(READY)
    fleet.wait_until(lambda: database.backends(SLEEPING), "the statement runs")
    server.end()
    assert no_child_is_left(fleet)
    assert database.newest_run()["outcome"] == "interrupted"
    assert database.holders(leader_key()) == []


def test_under_gunicorns_asgi_worker(
    fleet: Fleet, database: Database, serve: Any
) -> None:
    """gunicorn's asynchronous workers initialize too."""
    server = serve("--worker-class=asgi", app="serving:application", workers=2)
    assert {each.status for each in server.get_often("/sync/")} == {503}
    fleet.wait_for_note("inside")
    fleet.allow()
    server.wait_for(lambda answer: answer.status == 200)
    server.wait_for(lambda answer: answer.body == "sync", "/sync/")
    assert_done_once(database)


def test_under_runserver(fleet: Fleet, database: Database) -> None:
    """Under `runserver` the process that serves initializes, and the reloader does not."""
    port = free_port()
    command = [str(PROJECT / "manage.py"), "runserver", f"127.0.0.1:{port}"]
    server = Server(fleet, *command, project={"DEBUG": True}, env=NO_WARNINGS)
    server.get(READY)
    fleet.wait_for_note("inside")
    # The page's next poll shows the migration that is running.
    wait_until(lambda: "shop.0002_gate" in server.get("/entries/", BROWSER).body)
    fleet.allow()
    server.wait_for(lambda answer: answer.status == 200)
    assert_done_once(database)
    assert len({pid for pid, _ in fleet.notes()}) == 1
    server.replica.kill(signal.SIGINT)
    server.replica.wait()


def test_runserver_reloads(fleet: Fleet, database: Database, tmp_path: Path) -> None:
    """After a change, `runserver` ends the child with its process, and no other one starts."""
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    module = tmp_path / "changing.py"
    module.write_text("def middleware(get_response):\n    return get_response\n")
    port = free_port()
    command = [str(PROJECT / "manage.py"), "runserver", f"127.0.0.1:{port}"]
    middleware = [Server.MIDDLEWARE, "changing.middleware"]
    server = Server(
        fleet,
        *command,
        project={"DEBUG": True, "MIDDLEWARE": middleware, "LOGGING": LOGGING},
        env={**NO_WARNINGS, "PYTHONPATH": path},
    )
    server.get(READY)
    fleet.wait_for_note("inside")

    def reloads() -> bool:
        module.touch()
        return "reloading" in server.replica.stderr

    wait_until(reloads)

    def serves_again() -> bool:
        with suppress(OSError, HTTPException):  # while the process is replaced
            server.get(READY)
        return "this process applies nothing" in server.replica.stderr

    wait_until(serves_again)
    assert [run["outcome"] for run in database.runs()] == ["interrupted"]
    fleet.allow()
    assert fleet.run("safe_migrate").wait() == 0, fleet
    server.wait_for(lambda answer: answer.status == 200)
    assert [run["outcome"] for run in database.runs()] == ["interrupted", "ready"]
    server.replica.kill(signal.SIGINT)
    server.replica.wait()


def test_a_release_that_changes_a_view(
    fleet: Fleet, database: Database, serve: Any
) -> None:
    """The workers of a new release serve at once, and one child installs the release's view."""
    fleet.use(scenario="plain")
    old, new = ({"env": {"SAFE_INIT_RELEASE": name}, "view": name} for name in "12")
    assert fleet.run("safe_migrate", **old).wait() == 0, fleet
    server = serve(workers=2, **LOGGED, **new)
    server.wait_until_ready(2)
    wait_until(lambda: "has ended: ready" in server.replica.stderr)
    assert database.value("SELECT version FROM shop_view") == "2"
    again = serve(workers=2, **LOGGED, **new)
    again.wait_until_ready(2)
    assert len(database.runs()) == 2
    assert "Initializing in the background" not in again.replica.stderr


def test_each_server_without_a_release(
    fleet: Fleet, database: Database, serve: Any
) -> None:
    """Without a release each server installs its view once, whatever workers it replaces."""
    fleet.use(scenario="plain")
    fleet.run("safe_migrate", env={"SAFE_INIT_RELEASE": ""}, view="1")
    server = serve(workers=1, **LOGGED, env={"SAFE_INIT_RELEASE": ""}, view="2")
    server.wait_until_ready()
    wait_until(lambda: "has ended: ready" in server.replica.stderr)
    assert database.value("SELECT version FROM shop_view") == "2"
    worker = server.get(READY).worker
    os.kill(worker, signal.SIGKILL)
    server.wait_until_ready(besides={worker})
    assert len(database.runs()) == 2


def test_two_servers(fleet: Fleet, database: Database, serve: Any) -> None:
    """Of all workers of two web servers one leads."""
    first, second = serve(workers=2), serve(workers=2)
    for server in (first, second):
        server.get_often(READY)
    fleet.wait_for_note("inside")
    fleet.allow()
    for server in (first, second):
        server.wait_until_ready(2)
    assert_done_once(database)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_end(
    fleet: Fleet, database: Database, serve: Any, number: signal.Signals
) -> None:
    """A terminated web server cancels the run's statement, closes the run and frees the lock."""
    fleet.use(scenario="statement")
    server = serve(workers=2)
    server.get_often(READY)
    fleet.wait_until(lambda: database.backends(SLEEPING), "the statement runs")
    server.replica.kill(number)
    assert server.replica.wait() == 0, server.replica
    wait_until(lambda: no_child_is_left(fleet))
    assert database.newest_run()["outcome"] == "interrupted"
    assert database.holders(leader_key()) == []
    assert database.backends(SLEEPING) == []


@pytest.mark.parametrize("options", [[], ["--threads=4"]], ids=["sync", "threads"])
def test_told_to_end_with_preload(
    fleet: Fleet, database: Database, serve: Any, options: list[str]
) -> None:
    """With --preload a worker may miss the signal; its child ends with it."""
    fleet.use(scenario="statement")
    server = serve("--preload", *options, workers=2)
    fleet.wait_until(lambda: database.backends(SLEEPING), "the statement runs")
    server.replica.kill(signal.SIGTERM)
    assert server.replica.wait() == 0, server.replica
    wait_until(lambda: no_child_is_left(fleet))
    assert database.newest_run()["outcome"] == "interrupted"
    assert database.holders(leader_key()) == []


def test_a_killed_worker(fleet: Fleet, database: Database, serve: Any) -> None:
    """The child of a killed worker ends with it, and another worker's child takes over."""
    server = serve(workers=2)
    workers: set[int] = set()

    def both_answer() -> bool:
        workers.update(each.worker for each in server.get_often(READY, 8))
        return len(workers) == 2

    wait_until(both_answer)
    [(leader, _)] = fleet.wait_for_note("inside")
    parent = parent_of(leader)
    assert parent in workers
    os.kill(parent, signal.SIGKILL)
    fleet.wait_for_note("inside", 2)
    fleet.allow()
    wait_until(lambda: server.get(READY).status == 200)
    assert entries(database) == ["gate", "data"]
    assert [run["outcome"] for run in database.runs()] == ["interrupted", "ready"]


REPLACED = [
    pytest.param([], "wsgi:application", "/entries/", id="sync"),
    pytest.param(["--threads=4"], "wsgi:application", "/entries/", id="gthread"),
    pytest.param(["--worker-class=asgi"], "serving:application", "/sync/", id="asgi"),
]


def replace_worker(server: Server, path: str) -> None:
    """Send requests until the worker that initializes was replaced."""
    gone = "goes on initializing without this one"

    def asked() -> bool:
        with suppress(OSError, HTTPException):  # while the worker exits
            server.get(path)
        return gone in server.replica.stderr

    wait_until(asked)
    server.wait_for(lambda answer: answer.status == 503)


@pytest.mark.parametrize(("options", "app", "path"), REPLACED)
def test_a_worker_that_is_replaced(
    fleet: Fleet, database: Database, serve: Any, options: Any, app: str, path: str
) -> None:
    """The child of a replaced worker continues, however many requests are blocked."""
    server = serve(*options, "--max-requests=5", app=app, **LOGGED)
    server.get(READY)
    fleet.wait_for_note("inside")
    replace_worker(server, path)
    fleet.allow()
    server.wait_for(lambda answer: answer.status == 200)
    assert_done_once(database)
    assert len(fleet.notes("inside")) == 1


def test_a_worker_of_uvicorn_that_is_replaced(
    fleet: Fleet, database: Database, serve_async: Any
) -> None:
    """The child of a replaced worker of uvicorn continues."""
    server = serve_async(
        "--workers=2", "--limit-max-requests=40", env=NO_WARNINGS, **LOGGED
    )

    def listens() -> int | None:  # uvicorn says so before its workers listen
        with suppress(OSError, HTTPException):
            return server.get(READY).status
        return None

    wait_until(listens)
    fleet.wait_for_note("inside")
    replace_worker(server, "/sync/")
    fleet.allow()
    server.wait_for(lambda answer: answer.status == 200)
    assert_done_once(database)
    assert len(fleet.notes("inside")) == 1


def test_the_server_is_killed(fleet: Fleet, database: Database, serve: Any) -> None:
    """The workers of a killed gunicorn end, and so does their child."""
    server = serve()
    server.get(READY)
    fleet.wait_for_note("inside")
    server.replica.kill()
    assert server.replica.wait() == 137
    wait_until(lambda: no_child_is_left(fleet))
    assert database.newest_run()["outcome"] == "interrupted"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_server_ends_after_its_worker(
    fleet: Fleet, database: Database, serve: Any, number: signal.Signals
) -> None:
    """A detached child ends with gunicorn, and frees the lock."""
    server = serve("--max-requests=5", **LOGGED)
    server.get(READY)
    fleet.wait_for_note("inside")
    replace_worker(server, "/entries/")
    server.replica.kill(number)
    assert server.replica.wait() == (0 if number == signal.SIGTERM else 137)
    # A worker that has just started may not know of the child yet, and then does not wait for it.
    wait_until(lambda: no_child_is_left(fleet))
    assert database.newest_run()["outcome"] == "interrupted"
    assert database.holders(leader_key()) == []


def parent_of(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as stat:
        return int(stat.read().rpartition(")")[2].split()[1])


def test_a_failed_run(fleet: Fleet, database: Database, serve: Any) -> None:
    """One worker tries again after a failure, with growing pauses."""
    fleet.use(scenario="failing", pause="2")
    fleet.allow()
    server = serve(workers=4)
    server.get_often(READY)
    fleet.wait_for_note("inside")

    def failed() -> list[dict[str, Any]]:
        return [run for run in database.runs() if run["outcome"] == "failed"]

    fleet.wait_until(lambda: len(failed()) >= 3, "three attempts")
    runs = failed()[:3]
    assert [run["id"] for run in runs] == [1, 2, 3]
    pauses = [
        (later["started_at"] - run["finished_at"]).total_seconds()
        for run, later in pairwise(runs)
    ]
    assert pauses[0] >= 2
    assert pauses[1] >= 4
    # A worker's known status may be a second old.
    answer = server.wait_for(lambda answer: answer.json["state"] == "error")
    assert answer.json["error"].startswith("initialization failed, run ")
    assert "product 7 has no price" in server.replica.stderr


def test_a_repaired_database(fleet: Fleet, database: Database, serve: Any) -> None:
    """Workers that wait for the next try serve as soon as the database is ready."""
    fleet.use(scenario="failing")
    fleet.allow()
    server = serve(workers=2)
    server.get_often(READY)
    fleet.wait_until(
        lambda: (
            database.has_table("django_safe_init_run")
            and database.runs()
            and database.newest_run()["outcome"] == "failed"
        ),
        "a failure",
    )
    assert fleet.run("migrate", "--fake").wait() == 0
    server.wait_until_ready(2)


@pytest.mark.parametrize("settings", [{"MODE": "external"}, {"SERVE": "gate"}])
def test_a_server_that_only_waits(
    fleet: Fleet, database: Database, serve: Any, settings: dict[str, str]
) -> None:
    """With MODE "external" or SERVE "gate" a web server starts no child."""
    server = serve(safe_init={**INITIALIZE, **settings}, workers=1)
    server.get(READY)
    before = database.sessions()
    # After three polls, a web process that initializes would have started its child.
    wait_until(lambda: database.sessions() >= before + 3)
    assert no_child_is_left(fleet)
    assert database.applied_counts() == {}


@pytest.mark.parametrize("command", ["check", "showmigrations", "collect"])
def test_in_no_other_command(fleet: Fleet, database: Database, command: str) -> None:
    """A management command starts no child, whatever it imports."""
    code = "from django.core.wsgi import get_wsgi_application as load; load()"
    arguments = ["shell", "-c", code] if command == "collect" else [command]
    project = {"MIDDLEWARE": [Server.MIDDLEWARE]}
    assert fleet.run(*arguments, project=project).wait() == 0, fleet
    assert no_child_is_left(fleet)
    assert not database.has_table("django_safe_init_run")


def test_a_child_that_is_too_late(
    fleet: Fleet, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While another process leads, and after its success, a child has nothing to do."""
    for name, value in fleet.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "settings")
    monkeypatch.syspath_prepend(str(PROJECT))
    leader = fleet.start("safe_migrate")
    fleet.wait_for_note("inside")
    with InitializationProcess(if_due=True) as child:
        assert child.result() == (NOTHING_TO_DO, "")
    fleet.allow()
    assert leader.wait() == 0
    with InitializationProcess(if_due=True) as child:
        assert child.result() == (NOTHING_TO_DO, "")
    assert len(database.runs()) == 1


@pytest.mark.parametrize(
    ("wrapper", "reaps"),
    [
        pytest.param(IGNORING_CHILDREN, "", id="ignored"),
        pytest.param((), "1", id="reaped"),
    ],
)
def test_lost_exit_codes(serve_async: Any, role: str, wrapper: Any, reaps: str) -> None:
    """A child that fails is a failure although its exit code is lost, with its reason."""
    server = serve_async(
        wrapper=wrapper,
        reaps=reaps,
        database_settings={"USER": role},
        pause="60",
        **LOGGED,
    )
    server.get(READY)
    failed = r"failed, and is not tried again here within \d\d s: .*permission denied"
    wait_until(lambda: re.search(failed, server.replica.stderr))
    assert "has ended: ready" not in server.replica.stderr
    assert server.replica.stderr.count("Initializing in the background, in ") == 1


def test_an_unsafe_database(fleet: Fleet, serve: Any) -> None:
    """A permanent error is logged, and retried only after pauses."""
    fleet.use(safe_init={**INITIALIZE, "DATABASES": ["default"]}, pause="30")
    server = serve(
        safe_init={**INITIALIZE, "WAIT_TIMEOUT": 5, "CONNECT_ATTEMPTS": 1},
        workers=1,
        env={"PGOPTIONS": "-c default_transaction_read_only=on"},
    )
    server.get(READY)
    failed = r"failed, and is not tried again here within 3\d s: .* is read-only: "
    wait_until(lambda: re.search(failed, server.replica.stderr))
    assert server.get(READY).status == 503


def test_failing_system_checks(fleet: Fleet, database: Database, serve: Any) -> None:
    """The health, the status with the token and the page show why checks failed."""
    fleet.use(check="fails")
    server = serve(env={"SAFE_INIT_STATUS_TOKEN": "s3cret"}, pause="0.5")
    failed = server.wait_for(lambda answer: answer.json["status"] == "unhealthy")
    assert failed.json["error"].startswith("initialization failed, run ")
    told = server.get(READY, {"Authorization": "Bearer s3cret"}).json
    assert "The license is missing." in told["databases"][0]["error"]
    assert "Run " in server.get("/", BROWSER).body
    outcomes = [run["outcome"] for run in database.runs()]
    assert outcomes[:2] == ["transient", "failed"]
    assert database.applied_once() == []


def test_an_error_tracker(fleet: Fleet, database: Database, serve: Any) -> None:
    """The child process sends one event for each failed run; the worker sends none."""
    fleet.use(scenario="failing", sentry="1")
    fleet.allow()
    server = serve()
    answer = server.wait_for(lambda answer: answer.json["status"] == "unhealthy")
    events = fleet.wait_for_note("event ")
    children = {pid for pid, _ in fleet.notes("inside")}
    assert answer.worker not in children
    assert {pid for pid, _ in events} <= children
    assert len(events) == len({pid for pid, _ in events})
    assert all("ValueError" in text for _, text in events)


def test_a_failure_without_a_run(
    fleet: Fleet, database: Database, serve: Any, role: str
) -> None:
    """The status shows the error of a child whose role may not record a run."""
    server = serve(
        env={"SAFE_INIT_STATUS_TOKEN": "s3cret"},
        database_settings={"USER": role},
        pause="0.5",
    )
    failed = server.wait_for(lambda answer: answer.json["status"] == "unhealthy")
    assert failed.json["error"] == "initialization failed"
    told = server.get(READY, {"Authorization": "Bearer s3cret"}).json
    assert "GRANT CREATE ON SCHEMA" in told["databases"][0]["error"]
    database.rows(f"GRANT CREATE ON SCHEMA public TO {role}")
    fleet.allow()
    server.wait_until_ready()
