"""Who may call a provider's account now. Everybody gets a turn, in the order in which they fell due, and the account
takes no more calls a second than it likes: one bucket for all processes, given out in the claim.

What is more than the account takes at once books its turns: it falls due again shortly before, and takes the real one
then. If others have called the account meanwhile, it books another.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Final

from billhook.store.database import Tx
from billhook.store.payment_attempts import payment_attempts, put_in_turn
from billhook.store.provider_limits import GIVEN_AHEAD, book_calls, is_paused, take_booked
from billhook.store.work import Row, defer

CALLS: Final = 2
"""Of one attempt: the last look, and the charge."""
AHEAD: Final = timedelta(seconds=1)
"""Whose turn comes so soon is taken already, and waits for it in hand: between two claims a busy machine lets pass more
than a turn."""
LAPSED: Final = timedelta(seconds=1)
"""Whoever did not come within a second of its turn gets another one: turns that piled up would all be taken at once."""
EARLY: Final = AHEAD / 2
"""How long before its booked turn work falls due."""


class Admission:
    def __init__(self, calls_per_second: float, now: Callable[[], datetime]) -> None:
        self._rate = calls_per_second / CALLS
        self._now = now

    def admit(self, tx: Tx, rows: Sequence[Row]) -> Sequence[Row]:
        accounts: dict[tuple[str, str], list[Row]] = defaultdict(list)
        for row in sorted(rows, key=lambda row: (row["due_at"], row["id"])):
            accounts[row["source_id"], row["account"]].append(row)
        return [row for (source_id, account), theirs in sorted(accounts.items()) for row in self._taken(tx, theirs)]

    def _taken(self, tx: Tx, rows: Sequence[Row]) -> Sequence[Row]:
        """Of one account's rows those that have their turns now, with these. The others are put off."""
        now, source_id, account = self._now(), rows[0]["source_id"], rows[0]["account"]
        soon = now + AHEAD
        paused = is_paused(tx, source_id, account, now)
        comes: list[Row] = []
        fresh: list[Row] = []
        for row in rows:
            slot = None if paused else row["slot_at"]
            (comes if slot is not None and now - LAPSED <= slot <= soon else fresh).append(row)
        comes += self._booked(tx, fresh, now, until=soon)
        slots = [row["slot_at"] for row in comes]
        turns = take_booked(tx, source_id, account, slots, self._rate, now, soon) if slots else []
        # The others keep their places before all that booked later, for as long as these have not lapsed.
        defer(tx, payment_attempts, [(row["id"], now + EARLY) for row in comes[len(turns) :]])
        return [{**row, "slot_at": turn} for row, turn in zip(comes, turns, strict=False)]

    def _booked(self, tx: Tx, rows: Sequence[Row], now: datetime, *, until: datetime) -> list[Row]:
        """Book turns for these; returns those whose turns come until then, which are not put off."""
        if not rows:
            return []
        turns = book_calls(tx, rows[0]["source_id"], rows[0]["account"], len(rows), self._rate, now)
        at = list(zip(rows, turns, strict=False))
        put_in_turn(tx, [(row["id"], turn, turn - EARLY) for row, turn in at if turn > until])
        defer(tx, payment_attempts, [(row["id"], now + GIVEN_AHEAD) for row in rows[len(turns) :]])
        return [{**row, "slot_at": turn} for row, turn in at if turn <= until]
