"""A merchant's limits: so that no one of them makes work, or a list, without an end for the others."""

from __future__ import annotations

from datetime import datetime

from billhook.errors import Refused
from billhook.rules.limits import ROOM
from billhook.runtime.env import Env
from billhook.store.database import Tx
from billhook.store.limits import count_of, lock_merchant


def most(env: Env, what: str) -> int:
    return int(getattr(env.settings, f"{what}_per_merchant"))


def check_room(env: Env, tx: Tx, merchant_id: str, what: str, now: datetime) -> None:
    """Raises `Refused` where a merchant has as many as it may."""
    if what != "drafts":  # many of those are made at once: a few too many are better than one after the other
        lock_merchant(tx, merchant_id)
    limit = most(env, what)
    if count_of(tx, what, merchant_id, now) >= limit:
        raise Refused(
            f"{what}_too_many",
            f"This merchant has {limit} {what}, which is as many as one may have: {ROOM[what]}. The operator sets how"
            f" many by BILLHOOK_{what.upper()}_PER_MERCHANT.",
        )


def room_of(env: Env, tx: Tx, merchant_id: str, now: datetime) -> dict[str, tuple[int, int]]:
    """How many a merchant has of each, and may have."""
    return {what: (count_of(tx, what, merchant_id, now), most(env, what)) for what in ROOM}
