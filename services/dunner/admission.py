"""Who may call a provider's account now. Everybody gets a turn, in the order in which they fell due, and the account
takes no more calls a second than it likes: one bucket for all processes, given out in the claim."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Final

from billhook.store.database import Tx
from billhook.store.payment_attempts import payment_attempts, put_in_turn
from billhook.store.provider_limits import GIVEN_AHEAD, is_paused, reserve_calls
from billhook.store.work import Row, defer

CALLS: Final = 2
"""Of one attempt: the last look, and the charge."""
LAPSED: Final = timedelta(seconds=1)
"""Whoever did not come within a second of its turn gets another one: turns that piled up would all be taken at once."""
AHEAD: Final = timedelta(seconds=1)
"""Whose turn comes so soon is taken already, and waits for it in hand: between two claims a busy machine lets pass more
than a turn."""


class Admission:
    def __init__(self, calls_per_second: float, now: Callable[[], datetime]) -> None:
        self._rate = calls_per_second / CALLS
        self._now = now

    def admit(self, tx: Tx, rows: Sequence[Row]) -> Sequence[Row]:
        now = self._now()
        admitted: list[Row] = []
        waiting: list[tuple[str, datetime]] = []
        later: list[tuple[str, datetime]] = []
        accounts: dict[tuple[str, str], list[Row]] = defaultdict(list)
        for row in sorted(rows, key=lambda row: (row["due_at"], row["id"])):
            accounts[row["source_id"], row["account"]].append(row)
        for (source_id, account), theirs in sorted(accounts.items()):
            paused = is_paused(tx, source_id, account, now)
            fresh = []
            for row in theirs:
                turn = row["slot_at"]
                if turn is not None and not paused and now - LAPSED <= turn <= now + AHEAD:
                    admitted.append(row)
                else:
                    fresh.append(row)
            turns = reserve_calls(tx, source_id, account, len(fresh), self._rate, now) if fresh else []
            for row, turn in zip(fresh, turns, strict=False):
                if turn <= now + AHEAD:
                    admitted.append({**row, "slot_at": turn})
                else:
                    waiting.append((row["id"], turn))
            later += [(row["id"], now + GIVEN_AHEAD) for row in fresh[len(turns) :]]
        put_in_turn(tx, waiting)
        defer(tx, payment_attempts, later)
        return admitted
