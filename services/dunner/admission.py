"""Which attempts are taken in hand now: as many as the provider's account has turns for in the next second, in the
order in which they fell due. Each call then waits for its own turn (`billhook.runtime.provider_turns`).

What is more than the account takes at once books turns, which are a plan: it falls due again shortly before. If others
have called the account meanwhile, it keeps its place and comes a little later.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Final

from billhook.rules.permits import planned_per_second
from billhook.store.database import Tx
from billhook.store.payment_attempts import payment_attempts, put_in_turn
from billhook.store.provider_limits import GIVEN_AHEAD, Limit, book_calls, lock_limit
from billhook.store.work import Row, defer

CALLS: Final = 2
"""Of one attempt: the last look, and the charge."""
AHEAD: Final = timedelta(seconds=2)
"""Whose turn comes so soon is taken already, and waits for it in hand."""
LAPSED: Final = timedelta(seconds=4)
"""Whoever comes so late books another turn: of more that are late than one look finds, the later would come first."""
MANY: Final = 150
"""Rows of one account among the 200 that one look finds."""
EARLY: Final = AHEAD
"""How long before its booked turn work falls due."""


class Admission:
    def __init__(self, calls_per_second: float, now: Callable[[], datetime]) -> None:
        self._rate = planned_per_second(calls_per_second) / CALLS
        self._now = now

    def admit(self, tx: Tx, rows: Sequence[Row]) -> Sequence[Row]:
        accounts: dict[tuple[str, str], list[Row]] = defaultdict(list)
        for row in sorted(rows, key=lambda row: (row["due_at"], row["id"])):
            accounts[row["source_id"], row["account"]].append(row)
        return [row for account, theirs in sorted(accounts.items()) for row in self._taken(tx, *account, theirs)]

    def _taken(self, tx: Tx, source_id: str, account: str, rows: Sequence[Row]) -> Sequence[Row]:
        """Of one account's rows those that are taken now. The others are put off."""
        limit = lock_limit(tx, source_id, account)
        now = self._now()
        soon, paused = now + AHEAD, limit.pause_at(now) is not None
        comes: list[Row] = []
        fresh: list[Row] = []
        for row in rows:
            slot = None if paused else row["slot_at"]
            (comes if slot is not None and now - LAPSED <= slot <= soon else fresh).append(row)
        comes.sort(key=lambda row: (row["slot_at"], row["id"]))
        comes += self._booked(tx, limit, fresh, now, until=soon)
        room = max(1, round(self._rate * AHEAD.total_seconds()))
        new = {row["id"] for row in fresh}
        # Of many, those that are late would hide the rows of other accounts from the next look.
        later = [row for row in comes[room:] if row["id"] in new or len(rows) >= MANY]
        put_in_turn(tx, [(row["id"], row["slot_at"], now + EARLY) for row in later])
        return comes[:room]

    def _booked(self, tx: Tx, limit: Limit, rows: Sequence[Row], now: datetime, *, until: datetime) -> list[Row]:
        """Book turns for these; returns those whose turns come until then, which are not put off."""
        turns = book_calls(tx, limit, len(rows), self._rate, now)
        at = list(zip(rows, turns, strict=False))
        put_in_turn(tx, [(row["id"], turn, turn - EARLY) for row, turn in at if turn > until])
        defer(tx, payment_attempts, [(row["id"], now + GIVEN_AHEAD) for row in rows[len(turns) :]])
        return [{**row, "slot_at": turn} for row, turn in at if turn <= until]
