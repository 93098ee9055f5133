"""The state machine allows exactly the transitions of its table."""

from __future__ import annotations

import logging

import pytest

from django_safe_init.core.states import (
    TRANSITIONS,
    InvalidTransition,
    State,
    StateMachine,
)
from django_safe_init.signals import state_changed

PAIRS = [(old, new) for old in State for new in State]
LEGAL = {
    ("uninitialized", "connecting"),
    ("connecting", "acquiring_lock"),
    ("connecting", "ready"),
    ("acquiring_lock", "checking_schema"),
    ("acquiring_lock", "ready"),
    ("checking_schema", "migrating"),
    ("migrating", "validating"),
    ("validating", "ready"),
    ("validating", "uninitialized"),
    ("validating", "migrating"),
    ("ready", "connecting"),
    ("error", "connecting"),
    *((state.value, "error") for state in State if state is not State.ERROR),
}


def machine_in(state: State) -> StateMachine:
    machine = StateMachine("default")
    machine.state = state
    return machine


@pytest.mark.parametrize(("old", "new"), PAIRS, ids=lambda state: state.value)
def test_transitions(old: State, new: State) -> None:
    """Exactly the legal transitions change the state; any other raises and changes nothing."""
    machine = machine_in(old)
    if (old.value, new.value) in LEGAL:
        machine.transition_to(new)
        assert machine.state is new
    else:
        with pytest.raises(InvalidTransition, match=f"{old} cannot become {new}"):
            machine.transition_to(new)
        assert machine.state is old


def test_every_state_has_its_row() -> None:
    """The table of transitions has a row for each of the eight states."""
    assert set(TRANSITIONS) == set(State)
    assert len(State) == 8


def test_a_machine_starts_uninitialized() -> None:
    """A new machine is uninitialized."""
    assert StateMachine("default").state is State.UNINITIALIZED


def test_a_transition_is_logged_and_sent(caplog) -> None:
    """Each change is logged with the alias, and sent as `state_changed`."""
    sent = []

    def receive(sender, **values) -> None:
        sent.append(values)

    state_changed.connect(receive)
    try:
        with caplog.at_level(logging.INFO, "django_safe_init"):
            StateMachine("other").transition_to(State.CONNECTING)
    finally:
        state_changed.disconnect(receive)
    assert caplog.messages == ["other: uninitialized -> connecting"]
    [values] = sent
    assert values["database"] == "other"
    assert (values["old"], values["new"]) == (State.UNINITIALIZED, State.CONNECTING)


def test_an_invalid_transition_is_not_sent() -> None:
    """An invalid transition sends no signal."""
    sent = []

    def receive(sender, **values) -> None:
        sent.append(values)

    state_changed.connect(receive)
    try:
        with pytest.raises(InvalidTransition):
            StateMachine("default").transition_to(State.READY)
    finally:
        state_changed.disconnect(receive)
    assert sent == []


def test_a_state_is_its_word() -> None:
    """A state prints as the word that JSON, rows and logs use."""
    assert [str(state) for state in State] == [
        "uninitialized",
        "connecting",
        "acquiring_lock",
        "checking_schema",
        "migrating",
        "validating",
        "ready",
        "error",
    ]
