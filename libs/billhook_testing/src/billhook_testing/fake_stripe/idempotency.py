"""Idempotency keys: the first answer to a key is every later answer to it, for a day of the fake's time."""

from __future__ import annotations

from dataclasses import dataclass

from billhook_testing.fake_stripe.errors import key_reused

KEPT_SECONDS = 24 * 3600


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


class Keys:
    def __init__(self) -> None:
        self._first: dict[str, tuple[str, Answer, int]] = {}

    def replay(self, key: str, request: str, now: int) -> Answer | None:
        """The kept answer, or None for a new key. Raises `ApiError` where the key came with another request."""
        kept = self._first.get(key)
        if kept is None or now >= kept[2] + KEPT_SECONDS:
            return None
        first, answer, _ = kept
        if first != request:
            raise key_reused(key)
        return Answer(answer.status, answer.body, (*answer.headers, ("idempotent-replayed", "true")))

    def keep(self, key: str, request: str, answer: Answer, now: int) -> None:
        self._first[key] = (request, answer, now)
