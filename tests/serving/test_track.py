"""The progress of a running step in the responses of a web server."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from tests.processes.harness import Fleet
from tests.serving.harness import BROWSER, READY, STATUS
from tests.support import Database, wait_until

TOKEN = "t0ken"


def test_the_part_of_the_running_step(
    fleet: Fleet, database: Database, serve: Any
) -> None:
    """The percentage includes the running step; only the token unlocks its items."""
    fleet.use(scenario="tracking")
    server = serve(env={"SAFE_INIT_STATUS_TOKEN": TOKEN})
    leader = fleet.start("safe_migrate")
    fleet.wait_for_note("inside")
    done, total = (database.newest_run()[name] for name in ("done", "total"))
    percent = int((done + 0.5) * 100 / total)
    assert percent > done * 100 // total
    answer = server.wait_for(lambda each: each.json["progress"] == percent, STATUS)
    assert answer.json["state"] == "migrating"
    assert server.get(READY).json["progress"] == percent
    assert f'value="{percent}"' in server.get("/", BROWSER).body
    public = " ".join(server.get(path, BROWSER).body for path in (READY, STATUS, "/"))
    assert "secret" not in public + answer.body
    known = server.get(STATUS, {"Authorization": f"Bearer {TOKEN}"}).json
    [details] = known["databases"]
    assert details["run"]["item_message"] == "secret rows"
    assert details["message"].endswith("shop.0002_tracking: secret rows 2/4")
    fleet.allow()
    assert leader.wait() == 0, leader
    server.wait_for(lambda each: each.json["progress"] == 100, STATUS)


def test_blockers_of_the_leader(fleet: Fleet, database: Database, serve: Any) -> None:
    """The token unlocks the sessions that block the leader, with their times and statements."""
    fleet.use(scenario="altering")
    assert fleet.run("migrate", "shop", "0001").wait() == 0, fleet
    server = serve(env={"SAFE_INIT_STATUS_TOKEN": TOKEN})
    token = {"Authorization": f"Bearer {TOKEN}"}
    with closing(database.connect(application_name="report")) as raw:
        raw.execute("BEGIN; TABLE shop_product")
        leader = fleet.start("safe_migrate")
        [blocker] = wait_until(
            lambda: server.get(STATUS, token).json["databases"][0]["blockers"]
        )
        assert "pg_terminate" not in server.get(STATUS).body
        assert "TABLE" not in server.get(STATUS).body
        pid = raw.info.backend_pid
    assert (blocker["pid"], blocker["role"]) == (pid, "postgres")
    assert (blocker["application"], blocker["query"]) == (
        "report",
        "BEGIN; TABLE shop_product",
    )
    assert blocker["seconds"] >= 0
    assert leader.wait() == 0, leader
