"""Killed at random points, a random migration ends as if it had never been interrupted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.resume.plans import generate
from tests.resume.rounds import FORWARDS, NAME, Attempt, Round, Site
from tests.resume.steps import Kill, Plan, Step
from tests.support import Records

pytestmark = pytest.mark.process

SEED = 13
#: The deaths in each of four tests for each engine.
KILLS = 5
#: Enough rounds for so many deaths: in some, no process dies.
_ROUNDS = range(20)

#: A migration that passes points of every kind.
EVERY_KIND = Plan(
    (
        Step(
            "CreateModel",
            'migrations.CreateModel("Pen", [("id", models.BigAutoField(primary_key=True)),'
            ' ("color", models.CharField(max_length=9, db_index=True))])',
        ),
        Step(
            "RunPython",
            "migrations.RunPython(forwards_1, forwards_1, atomic=None)",
            "def forwards_1(apps, schema_editor):\n"
            '    helpers.log_once(schema_editor, "once 1")\n',
        ),
        Step(
            "RunSQL", "migrations.RunSQL(\"INSERT INTO shop_log (text) VALUES ('2')\")"
        ),
    ),
    kills=(Kill(0, 0),),
)


@pytest.mark.parametrize(
    "part", [pytest.param(0, marks=pytest.mark.smoke), *range(1, 4)], ids="abcd"
)
def test_killed(site: Site, part: int) -> None:
    """After each series of deaths, schema and rows are as after an uninterrupted run."""
    deaths = 0
    for number in _ROUNDS:
        plan = generate(SEED + part, number, site.engine.name)
        result = Round(site, plan, f"part-{part}-{number}").play()
        assert not result.fault, (SEED + part, number)
        deaths += len(result.deaths)
        if deaths >= KILLS:
            return
    pytest.fail(f"only {deaths} deaths")


def test_points(site: Site) -> None:
    """A run passes points before, in and after each kind of work."""
    steps = site.write("measured", {NAME: EVERY_KIND.source()})
    with site.engine.database(site.base) as database:
        attempt = site.expect(FORWARDS, database, steps, counted=True)
    works = (
        *(
            "a statement",
            "a statement without transaction",
            "a statement of the journal",
        ),
        *("deferred SQL", "the record", "commit"),
    )
    expected = {
        f"{when} {work}" for work in works for when in ("before", "during", "after")
    }
    expected |= {
        f"{when} {work}"
        for work in ("operation", "recording", "all deferred SQL")
        for when in ("before", "after")
    }
    expected |= {"between work and journal", "inside Python"}
    assert {kind for kind, _ in attempt.points} == expected


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("INSERT INTO shop_log (text) VALUES ('2')", "+{'text': '2'}"),
        ("CREATE INDEX pen_again ON shop_pen (color)", "pen_again"),
        (
            "INSERT INTO django_safe_init_operation (lock_key, migration, recorded, kind,"
            " position, part, state, fingerprint, run_id, written_at) VALUES ('', 'shop.x', false,"
            " 'operation', 1, 0, 'done', '', 1, CURRENT_TIMESTAMP)",
            "left in the journal",
        ),
    ],
    ids=["a row", "an index", "an entry"],
)
def test_a_difference_is_found(
    site: Site, statement: str, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row, an index or an entry of the journal too much is a fault."""
    run = site.run

    def disturb(
        arguments: Sequence[str], database: Records, steps: Path, **options: Any
    ) -> Attempt:
        attempt = run(arguments, database, steps, **options)
        if not attempt.code and not options.keys() & {"stock", "counted"}:
            database.rows(statement)
        return attempt

    monkeypatch.setattr(site, "run", disturb)
    fault = Round(site, EVERY_KIND, "disturbed").play().fault
    assert found in fault
    assert fault.startswith("forwards\ndeath: ")
