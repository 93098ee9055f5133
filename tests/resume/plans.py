"""Generate plans: a random migration, a way through it, and the points of the deaths."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.resume.operations import MAKERS, Chooser
from tests.resume.steps import SCENARIOS, Item, Kill, Plan, Step
from tests.resume.world import World

_LENGTH = (4, 12)
_MOST_KILLS = 5
_MOST = 9_999


@st.composite
def plans(draw: Any, engine: str) -> Plan:
    """Draw a plan."""
    choose = Chooser(draw, engine)
    world = World()
    items: list[Item] = []
    wanted = choose.number(*_LENGTH)
    while len(items) < wanted:
        items += _items(world, choose)
    kills = [
        Kill(choose.number(0, _MOST), choose.number(0, _MOST))
        for _ in range(choose.number(1, _MOST_KILLS))
    ]
    scenario = choose.one([SCENARIOS[0], *SCENARIOS]) or SCENARIOS[0]
    return Plan(tuple(items), scenario, tuple(kills))


def _items(world: World, choose: Chooser) -> list[Item]:
    """Return an operation, or none if this kind has nothing to work on."""
    maker = choose.one(MAKERS)
    assert maker is not None
    made = maker(world, choose)
    return [made] if made else []


def generate(chosen_seed: int, number: int, engine: str) -> Plan:
    """Return the plan of a round: always the same for a version of Hypothesis."""
    made: list[Plan] = []

    @seed(f"{chosen_seed} {number}")
    @settings(
        database=None,
        deadline=None,
        max_examples=2,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(plans(engine))
    def collect(plan: Plan) -> None:
        made.append(plan)

    collect()
    return made[-1]  # the first one has the simplest choice everywhere


def kinds(plan: Plan) -> set[str]:
    """Return the kinds of operations in a plan."""
    found = {step.kind for step in plan.steps}
    return found | {item.kind for item in plan.items if not isinstance(item, Step)}
