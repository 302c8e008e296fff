"""The leases of what this process has in hand. They can be as short as the wait after a crash should be, because they
are renewed: by the monotonic clock, which no step of the wall clock can stop."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from billhook.store import work
from billhook.store.database import Database, is_outage

log = logging.getLogger(__name__)

LONGEST_BATCH = timedelta(minutes=10)
"""What takes longer is taken for stuck: its lease is no longer renewed. The longest that can be is a batch of documents
whose every page hangs until its deadline, 8 minutes."""


@dataclass(slots=True)
class _Lease:
    token: str
    taken_at: float
    renewed_at: float
    given_back: bool = False


class Leases:
    """Used by all threads of a consumer."""

    def __init__(
        self,
        database: Database,
        table: sa.Table,
        lease: timedelta,
        now: Callable[[], datetime],
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.lease = lease
        self._database = database
        self._table = table
        self._now = now
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._held: dict[str, _Lease] = {}
        self._keeper: threading.Thread | None = None
        self._taken = False
        """Whether anything was since the keeper last looked."""

    def take(self, token: str, ids: Iterable[str]) -> None:
        now = self._monotonic()
        with self._lock:
            self._taken = True
            self._held.update((row_id, _Lease(token, now, now)) for row_id in ids)

    def give_back(self, ids: Iterable[str]) -> None:
        """What was not begun is about to be written as due again. Whoever claims it from then on may have it, also
        before it is released here."""
        with self._lock:
            for row_id in ids:
                self._held[row_id].given_back = True

    def release(self, tokens: Mapping[str, str]) -> None:
        """Let go of what is held under these, each by its id, and not of what was taken anew."""
        with self._lock:
            for row_id, token in tokens.items():
                if row_id in self._held and self._held[row_id].token == token:
                    del self._held[row_id]

    def holds(self, row_id: str) -> bool:
        """Whether it is under way here, or what came of it is still to be written."""
        lease = self._held.get(row_id)
        return lease is not None and not lease.given_back

    def token(self, row_id: str) -> str:
        return self._held[row_id].token

    def tokens(self) -> set[str]:
        """All under which something is in hand."""
        with self._lock:
            return {lease.token for lease in self._held.values()}

    def seconds(self, row_id: str) -> float:
        """How long it has been in hand."""
        return self._monotonic() - self._held[row_id].taken_at

    def __len__(self) -> int:
        return len(self._held)

    def renew(self) -> None:
        """Renew all that has used up a third of its lease, but for what is stuck."""
        now = self._monotonic()
        third, longest = self.lease.total_seconds() / 3, LONGEST_BATCH.total_seconds()
        with self._lock:
            wanted = {
                row_id: lease.token
                for row_id, lease in self._held.items()
                if now - lease.renewed_at >= third and now - lease.taken_at < longest
            }
        if not wanted:
            return
        with self._database.begin(durable=False) as tx:
            work.renew(tx, self._table, wanted, self._now() + self.lease)
        with self._lock:
            for row_id in wanted:
                if row_id in self._held:
                    self._held[row_id].renewed_at = now

    def keep(self, done: threading.Event) -> None:
        """Renew until `done`, whatever becomes of the database meanwhile."""
        while not done.wait(self.lease.total_seconds() / 6):
            self._renew_if_possible()

    def _renew_if_possible(self) -> None:
        try:
            self.renew()
        except Exception as error:
            if not is_outage(error):
                log.warning("leases not renewed", extra={"queue": self._table.name, "reason": str(error)[:200]})

    @contextmanager
    def kept(self, token: str, ids: Collection[str]) -> Iterator[None]:
        """Take these, and renew them while the block runs: by a thread that is there as long as one block follows
        another. To start one for each cost a batch of one a twentieth of its processor."""
        self.take(token, ids)
        with self._lock:
            if self._keeper is None:
                self._keeper = threading.Thread(target=self._keep_while_needed, name="keeper", daemon=True)
                self._keeper.start()
        try:
            yield
        finally:
            self.release(dict.fromkeys(ids, token))

    def _keep_while_needed(self) -> None:
        while True:
            time.sleep(self.lease.total_seconds() / 6)
            with self._lock:
                if not self._held and not self._taken:
                    self._keeper = None
                    return
                self._taken = False
            self._renew_if_possible()
