"""System checks that fail before a run begins are recorded as a run."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.contrib.auth.models import Permission
from django.core.checks import Error, Warning, register
from django.core.management import CommandError, call_command
from django.core.management.base import SystemCheckError

from django_safe_init import (
    InitializationFailed,
    LeaderFailed,
    State,
    get_status,
    initialize,
)
from django_safe_init.core.records import RUN_TABLE
from django_safe_init.exceptions import ConfigurationError, DatabaseUnreachable
from django_safe_init.initialization import check_failures
from django_safe_init.initialization.initializer import Initializer
from django_safe_init.initialization.migrate_command import run_migrate
from django_safe_init.initialization.types import InitializationOptions, MigrateTask
from django_safe_init.signals import state_changed

E1 = Error("No license.", hint="Buy one.", id="shop.E001")
E2 = Error("No plugin.", id="shop.E002")


@pytest.fixture
def found() -> list[Error | Warning]:
    """Return the messages of a system check, which a test may change."""
    messages: list[Error | Warning] = [E1]

    @register
    def check(app_configs, **kwargs):
        return list(messages)

    return messages


@pytest.fixture
def start(small_shop, monkeypatch) -> Callable[..., str]:
    """Return a function that runs `safe_migrate` as a new process, and returns its error."""

    def run(*options: str, is_new: bool = True, skip_checks: bool = False) -> str:
        if is_new:
            monkeypatch.setattr(check_failures, "_recorded_here", {})
        try:
            call_command("safe_migrate", *options, verbosity=0, skip_checks=skip_checks)
        except CommandError as exc:
            return str(exc)
        return ""

    return run


def runs(database) -> list[tuple[str, str, str]]:
    return [
        (each["outcome"], each["state"], each["checks"]) for each in database.runs()
    ]


def test_two_processes(start, found, django_database) -> None:
    """The first failure is transient. The same errors in another process fail the build."""
    found.append(Warning("It is Friday.", id="shop.W001"))
    assert "No license." in start()
    [run] = django_database.runs()
    assert (run["outcome"], run["done"], run["command"]) == (
        "transient",
        0,
        "safe_migrate",
    )
    assert run["error"] == (
        "System checks failed: ERRORS: ?: (shop.E001) No license. HINT: Buy one."
    )
    status = get_status()
    assert (status.state, status.error) == (State.UNINITIALIZED, run["error"])
    assert run["error"] in status.message
    assert "No license." in start()
    assert runs(django_database) == [
        ("transient", "error", "shop.E001"),
        ("failed", "error", "shop.E001"),
    ]
    status = get_status()
    assert (status.state, status.error) == (State.ERROR, run["error"])


def test_one_process(start, found, django_database) -> None:
    """The same errors, twice in one process, may still come from its environment."""
    start()
    start(is_new=False)
    assert [outcome for outcome, *_ in runs(django_database)] == ["transient"] * 2


def test_other_errors(start, found, django_database) -> None:
    """Other errors in another process are a first failure again, and a success forgets them."""
    start()
    found[:] = [E2]
    start()
    found[:] = [E2, E1]
    start(skip_checks=True)
    found[:] = [E1]
    start("--force")
    assert [outcome for outcome, *_ in runs(django_database)] == [
        "transient",
        "transient",
        "ready",
        "transient",
    ]


def test_all_identifiers_count(start, found, django_database) -> None:
    """Errors are compared by all their identifiers, in any order."""
    found[:] = [E2, Error("It is Friday."), E1, E1]
    start()
    found[:] = [E1, E2]
    start()
    assert {checks for *_, checks in runs(django_database)} == {"shop.E001, shop.E002"}
    assert [outcome for outcome, *_ in runs(django_database)] == ["transient", "failed"]


def test_without_identifiers(start, found, django_database) -> None:
    """Errors without an identifier are compared by their objects: texts differ in each process."""
    found[:] = [Error("It is Friday,\npid 1: no license.", obj=Permission)]
    start()
    found[:] = [Error("It is Friday,\npid 1: no license.")]
    start()
    found[:] = [Error("It is Saturday,\npid 2: no license.")] * 2
    start()
    assert runs(django_database) == [
        ("transient", "error", "no identifier: auth.Permission"),
        ("transient", "error", "no identifier: ?"),
        ("failed", "error", "no identifier: ?"),
    ]


@pytest.mark.parametrize(
    ("command", "error", "attribute", "code"),
    [
        ("safe_migrate", CommandError, "returncode", 1),
        ("migrate", SystemExit, "code", 3),
    ],
)
def test_a_check_that_exits(
    small_shop, django_database, monkeypatch, command, error, attribute, code
) -> None:
    """A check that raises `SystemExit` fails like one that raises another error.

    `migrate` raises it again, as Django's command does.
    """

    @register
    def leave(app_configs, **kwargs):
        raise SystemExit(3)

    for _ in range(2):
        monkeypatch.setattr(check_failures, "_recorded_here", {})
        with pytest.raises(error) as caught:
            call_command(command, verbosity=0, skip_checks=False)
        assert getattr(caught.value, attribute) == code
    assert runs(django_database) == [
        ("transient", "error", "SystemExit"),
        ("failed", "error", "SystemExit"),
    ]
    assert get_status().error == "A system check raised SystemExit: 3"


def test_colors(start, found, django_database) -> None:
    """The colors of a terminal are not stored."""
    start("--force-color")
    [run] = django_database.runs()
    assert run["checks"] == "shop.E001"
    assert "ERRORS: ?: (shop.E001) No license." in run["error"]


def test_a_check_that_raises(start, django_database) -> None:
    """A check that raises an error fails like one that returns an error."""

    @register
    def check(app_configs, **kwargs):
        raise LookupError("no such plugin")

    assert start() == "default: A system check raised LookupError: no such plugin"
    [run] = django_database.runs()
    assert "in check\n" in run["traceback"]
    start()
    assert runs(django_database) == [
        ("transient", "error", "LookupError"),
        ("failed", "error", "LookupError"),
    ]


@pytest.mark.parametrize("error", [ConfigurationError, DatabaseUnreachable])
def test_other_failures(error, django_database, small_shop) -> None:
    """A usage error, and one of the server, say nothing about the build: neither is recorded."""

    def check(deadline) -> None:
        raise error("no")

    task = MigrateTask(lambda: pytest.fail("it led"), "test")
    with pytest.raises(error, match="no"):
        Initializer(InitializationOptions(task, run_checks=check)).run()
    assert django_database.value(f"SELECT to_regclass('{RUN_TABLE}')") is None


def test_an_error_of_this_process(django_database, small_shop) -> None:
    """An error of only this process, in a check, is raised as it is and not recorded."""

    def check(deadline) -> None:
        raise MemoryError

    task = MigrateTask(lambda: pytest.fail("it led"), "test")
    with pytest.raises(MemoryError):
        Initializer(InitializationOptions(task, run_checks=check)).run()
    assert django_database.value(f"SELECT to_regclass('{RUN_TABLE}')") is None


def test_a_ready_database(start, found, django_database) -> None:
    """Failed checks leave a ready database ready, because no work has begun."""
    start(skip_checks=True)
    start("--force")
    start("--force")
    assert [each[:2] for each in runs(django_database)[1:]] == [
        ("transient", "ready"),
        ("failed", "ready"),
    ]
    assert get_status().ready
    assert start() == ""


def test_after_a_failed_run(start, found, small_shop, django_database) -> None:
    """A first failure of the checks does not hide that an earlier run failed."""

    def fail(connection) -> None:
        raise ValueError("no price")

    small_shop.run("0003_fail", fail)
    with pytest.raises(InitializationFailed):
        initialize()
    start()
    assert [outcome for outcome, *_ in runs(django_database)] == ["failed"] * 2
    assert get_status().state is State.ERROR


def test_a_dead_leaders_run(start, found, leader, session, django_database) -> None:
    """The third death in a row is the failure that is recorded, not the checks of its successor."""
    for _ in range(2):
        leader.finish_run("interrupted", State.ERROR)
        leader.open_run("test")
    leader.session.close()
    assert "No license." in start()
    assert [outcome for outcome, *_ in runs(django_database)] == [
        "interrupted",
        "interrupted",
        "failed",
    ]


def test_no_right_to_record(
    start, found, django_database, new_role, log_in_as, caplog
) -> None:
    """The error of the checks is raised also if the role may create no table."""
    django_database.rows("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    log_in_as(USER=new_role("reads_only"))
    assert "No license." in start()
    assert "The failed system checks are not recorded: " in caplog.text


# Checks of a successor


@pytest.mark.parametrize("outcome", [None, "interrupted", "transient", "failed"])
def test_a_successor_repeats_no_checks(
    start, found, leader, django_database, outcome
) -> None:
    """Checks that passed for this build are not repeated before one of its runs succeeds."""
    leader.checks = "passed"
    leader.open_run("test")
    if outcome:
        leader.finish_run(outcome, State.ERROR, "no")
    leader.session.close()
    assert start() == ""
    assert runs(django_database)[-1] == ("ready", "ready", "passed")
    assert "No license." in start("--force")


@pytest.mark.parametrize("outcome", ["ready", "partial"])
def test_checks_after_a_success(start, found, leader, outcome) -> None:
    """A run that succeeded leaves nothing unfinished, so the checks are repeated."""
    leader.checks = "passed"
    leader.open_run("test")
    leader.finish_run(outcome, State.READY)
    leader.session.close()
    assert "No license." in start()


def test_a_leader_without_checks(start, found, leader) -> None:
    """A successor of a leader that ran no checks runs them."""
    leader.session.close()
    assert "No license." in start()


def test_checks_of_migrate(start, found, small_shop, django_database) -> None:
    """The checks that `migrate` runs before it leads count for its successor, too."""

    def fail(connection) -> None:
        raise ValueError("no price")

    found[:] = []
    small_shop.run("0003_fail", fail)
    with pytest.raises(ValueError, match="no price"):
        call_command("migrate", verbosity=0, skip_checks=False)
    assert runs(django_database) == [("failed", "error", "passed")]
    with pytest.raises(ValueError, match="no price"):
        call_command("migrate", verbosity=0)  # it skips the checks
    assert runs(django_database)[-1] == ("failed", "error", "passed")


def test_a_migrate_that_only_plans(small_shop, found, django_database) -> None:
    """`migrate --plan` is Django's own: its failed checks are raised, and not recorded."""
    with pytest.raises(SystemCheckError, match=r"shop\.E001"):
        call_command("migrate", plan=True, skip_checks=False)
    assert get_status().run is None


def test_another_build(start, found, leader, small_shop) -> None:
    """The checks of another build count for that build only."""
    leader.checks = "passed"
    leader.open_run("test")
    leader.session.close()
    small_shop.run("0003_more", lambda connection: None)
    assert "No license." in start()


def test_a_follower_shares_the_failure(small_shop, django_database) -> None:
    """A process that waited for the second failure does not run the checks itself."""
    task = MigrateTask(lambda: run_migrate("default"), "test")

    def fail(deadline) -> None:
        raise LookupError("no such plugin")

    def fail_twice(new: State, **kwargs) -> None:
        if new is not State.ACQUIRING_LOCK:
            return
        state_changed.disconnect(fail_twice)
        for _ in range(2):
            check_failures._recorded_here.clear()
            with pytest.raises(InitializationFailed):
                Initializer(InitializationOptions(task, run_checks=fail)).run()

    state_changed.connect(fail_twice)
    options = InitializationOptions(
        task, run_checks=lambda deadline: pytest.fail("it ran the checks")
    )
    with pytest.raises(LeaderFailed, match="no such plugin"):
        Initializer(options).run()
    assert [outcome for outcome, *_ in runs(django_database)] == ["transient", "failed"]


@pytest.mark.parametrize(
    ("seconds", "is_new", "error"),
    [
        (3600.0, True, LeaderFailed),
        (3600.0, False, InitializationFailed),
        (0.0, True, InitializationFailed),
    ],
    ids=["while it loaded", "of this process", "before it loaded"],
)
def test_a_failure_while_this_process_loaded(
    small_shop, django_database, seconds, is_new, error
) -> None:
    """Checks that failed elsewhere while this process was loading are not repeated."""
    task = MigrateTask(lambda: run_migrate("default"), "test")
    ran = []

    def fail(deadline) -> None:
        ran.append(True)
        raise LookupError("no such plugin")

    check_failures._recorded_here.clear()
    for _ in range(3):
        with pytest.raises(InitializationFailed):
            Initializer(InitializationOptions(task, run_checks=fail)).run()
    assert django_database.newest_run()["outcome"] == "failed"
    if is_new:
        check_failures._recorded_here.clear()
    options = InitializationOptions(task, run_checks=fail, seconds_of_loading=seconds)
    with pytest.raises(InitializationFailed) as caught:
        Initializer(options).run()
    assert type(caught.value) is error
    assert len(ran) == (3 if error is LeaderFailed else 4)
