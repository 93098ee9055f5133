"""The lock keys, which are frozen because two versions of this package meet in one rollout."""

from __future__ import annotations

import pytest

from django_safe_init.backends.postgresql.lock_keys import (
    channel,
    leader_key,
    privileged_key,
    work_key,
)


def test_keys_without_lock_key() -> None:
    """The keys without a LOCK_KEY never change."""
    assert leader_key() == -8132040166973722145
    assert work_key() == -2520119461776287253


def test_key_of_the_privileged_phase() -> None:
    """The key of the privileged phase never changes."""
    assert privileged_key() == 5938966538005386195
    assert privileged_key("shop") == -5717660398273006846


def test_keys_with_lock_key() -> None:
    """The keys with a LOCK_KEY never change."""
    assert leader_key("shop") == 788681900191871984
    assert work_key("shop") == -8722727773015079312


@pytest.mark.parametrize(
    ("lock_key", "name"),
    [
        (None, "django_safe_init_8f25308db452b1df"),
        ("shop", "django_safe_init_0af1f60275b773f0"),
    ],
)
def test_channel(lock_key: str | None, name: str) -> None:
    """The name of the notification channel never changes, and is a plain identifier."""
    assert channel(lock_key) == name


def test_an_empty_lock_key_is_none() -> None:
    """An empty LOCK_KEY counts as none, because environment variables are often empty."""
    assert leader_key("") == leader_key(None)
    assert work_key("") == work_key(None)


@pytest.mark.parametrize("key", [leader_key, work_key])
@pytest.mark.parametrize("lock_key", [None, "a", "ä" * 1000])
def test_keys_fit_a_bigint(key, lock_key) -> None:
    """A key is a signed 64-bit number."""
    assert -(2**63) <= key(lock_key) < 2**63
