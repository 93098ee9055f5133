"""Follow: wait until the leader ends, at no cost to it, and decide what to do next.

No wait holds a snapshot, a transaction or a blocking lock call.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable

from django_safe_init.backends.base.observer import BaseObserver
from django_safe_init.backends.base.reader import BaseReader
from django_safe_init.core.cancellation import sleep
from django_safe_init.core.records import (
    ConnectionEnded,
    LeaderSnapshot,
    RunRow,
    Snapshot,
    TablesLocked,
)
from django_safe_init.core.text import one_line, wrap
from django_safe_init.exceptions import LeaderFailed
from django_safe_init.initialization.types import Decision
from django_safe_init.initialization.wait_log import WaitLog

logger = logging.getLogger("django_safe_init")

_UNSEEN_HOLDER = (
    "The leader lock stayed taken, and no query shows its holder. Start again, or compare "
    "`manage.py safe_init_unlock` with the locks of type advisory in pg_locks."
)


class Follower:
    """Waits until this process can lead, or has nothing left to wait for.

    `since` was read before the wait: only a run that ended later counts. `satisfied` returns
    True for a snapshot that ends the wait. `may_lead` allows this process to take the lock.
    Without `propagate_failure` another leader's failure does not end the wait. `shares_failure`
    returns True for a run whose failure counts although it ended before the wait.
    """

    def __init__(
        self,
        observer: BaseObserver,
        since: Snapshot,
        *,
        satisfied: Callable[[Snapshot], bool],
        may_lead: bool,
        propagate_failure: bool = True,
        shares_failure: Callable[[RunRow], bool] = lambda run: False,
    ) -> None:
        self.observer = observer
        self.build = observer.context.build.fingerprint
        self.since = since.latest
        self.satisfied = satisfied
        self.may_lead = may_lead
        self.propagate_failure = propagate_failure
        self.shares_failure = shares_failure
        #: The snapshot of the last decision.
        self.snapshot = since
        self._log = WaitLog(observer)

    def follow(self) -> Decision:
        """Wait, and return `DONE` or `CAMPAIGN`.

        Raises `LeaderFailed`, `WaitTimeout` or `DatabaseUnreachable`.
        """
        while True:
            try:
                decision = self._poll()
                if decision is not None:
                    return decision
                self.observer.wait()
            except ConnectionEnded as exc:
                logger.info("A follower's connection ended: %s", one_line(exc))
                self.observer.close()
                self._log.check_timeouts()
                sleep(random.uniform(0.1, 0.5))

    def check_timeouts(self) -> None:
        """Raise `WaitTimeout` if this process has waited as long as it may for the lock.

        A lock that cannot be taken, and whose holder no query shows, is limited like any other.
        """
        self._log.check_timeouts(lambda: _UNSEEN_HOLDER)

    def _poll(self) -> Decision | None:
        reader = self.observer.reader()
        obstacle = None
        try:
            seen = peeked = reader.peek()
            at_work = peeked.at_work_for(self.build) and not self._may_suffice(peeked)
            if not (self.may_lead and at_work):
                decision = self.decide(self._read(reader, peeked))
                if decision is not None:
                    return decision
        except TablesLocked:
            # A migration locks the status tables. The lock's holder is visible nevertheless.
            peeked = self._log.peeked._replace(leader_pid=reader.leader_pid())
            if self.may_lead and peeked.leader_pid is None:
                return Decision.CAMPAIGN
            seen = peeked._replace(latest=None)
            obstacle = reader.table_lock_holders
        if self.may_lead and self.observer.end_stalled(seen):
            return Decision.CAMPAIGN
        self._log.note(peeked, reader)
        self._log.check_timeouts(obstacle)
        return None

    def _may_suffice(self, peeked: LeaderSnapshot) -> bool:
        """Return True if the run has done the shared schema, and the settings ask for no more."""
        if self.observer.context.settings.tenant_readiness != "shared":
            return False
        return peeked.latest is not None and peeked.latest.schemas is not None

    def _read(self, reader: BaseReader, peeked: LeaderSnapshot) -> Snapshot:
        """Return a full snapshot, without a query if the leader of this build just finished.

        At that moment every follower polls, and the last one should not wait long.
        """
        run = peeked.latest
        if run is not None and run.build == self.build and self._ended_ready(run):
            return Snapshot(
                (), run, run, True, False, peeked.leader_pid, release=run.release
            )
        return reader.read()

    def decide(
        self, snapshot: Snapshot, *, holds_lock: bool = False
    ) -> Decision | None:
        """Return the next action for the snapshot; None to wait on. Raises `LeaderFailed`.

        `holds_lock` is True if this process itself holds the leader lock.

        `_poll` takes over in two more cases: the status tables are locked and no process
        leads, or a stalled leader was ended.
        """
        self.snapshot = snapshot
        own, latest = snapshot.own, snapshot.latest
        if not (snapshot.shared_suffices and snapshot.shared_done):
            self._raise_leader_failure(own)
        if not self.may_lead:
            return Decision.DONE if self.satisfied(snapshot) else None
        ready = self.satisfied(snapshot)
        if ready and (self._ended_ready(own) or self._ended_ready(latest)):
            return Decision.DONE
        is_led = snapshot.leader_pid is not None and not holds_lock
        if ready and snapshot.shared_suffices and is_led:
            return Decision.DONE  # the leader goes on in the schemas of tenants
        return Decision.CAMPAIGN if snapshot.leader_pid is None else None

    def _ended_since(self, ended: RunRow) -> bool:
        """Return True if the run ended while this process waited."""
        since = self.since
        if since is None or ended.is_newer_than(since):
            return True
        return ended.identity == since.identity and since.open

    def _ended_ready(self, run: RunRow | None) -> bool:
        return run is not None and run.outcome == "ready" and self._ended_since(run)

    def _raise_leader_failure(self, own: RunRow | None) -> None:
        if own is None or own.outcome != "failed" or not self.propagate_failure:
            return
        if self._ended_since(own) or self.shares_failure(own):
            text = wrap(f"The {own.leader_title} failed: ", own.error or "")
            raise LeaderFailed(text, run=own.id)
