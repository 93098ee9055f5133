"""`initialize()`: lead, follow, or do nothing."""

from __future__ import annotations

from django_safe_init import (
    initialize,
)


def test_an_empty_database(django_database, small_shop) -> None:
    """On an empty database this process leads, and does and records everything once."""
    outcome = initialize()
    assert outcome.result == "ready"
    assert outcome.role == "leader"
    assert outcome.database == "default"
    assert outcome.applied == ("shop.0001_initial", "shop.0002_sale")
    assert outcome.error is None
    assert 0 <= outcome.waited_seconds <= outcome.duration_seconds
    assert django_database.applied_once() == ["shop.0001_initial", "shop.0002_sale"]
    run = django_database.newest_run()
    assert outcome.run == run["id"]
    assert (run["outcome"], run["state"], run["progress"]) == ("ready", "ready", 100)
    assert (run["done"], run["total"], run["command"]) == (2, 2, "initialize")
    assert [(step["name"], step["outcome"]) for step in django_database.steps()] == [
        ("shop.0001_initial", "done"),
        ("shop.0002_sale", "done"),
    ]
