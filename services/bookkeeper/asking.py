"""Asking the provider for an object that its events alone cannot settle.

An object is asked for once a batch, however many of its events are in it. Whoever did not answer is left alone for a
moment: a provider that hangs costs its own events time, and nobody else's.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from billhook.errors import KeyRefused, NotYet, TryAgain, Unprocessable
from billhook.rules.book.objects import BookObject
from billhook.runtime.provider_apis import ProviderApis
from billhook.store.sources import Source

PAUSE = timedelta(seconds=5)
"""How long a provider that did not answer is not asked again, unless it named a time itself."""

LONGEST_WAIT = timedelta(seconds=0.25)
"""For a turn at the provider's account: the whole batch waits, and with it events of other merchants. Whose turn comes
later is deferred."""

REFUSED = timedelta(minutes=10)
"""How long a key that was refused is not tried again: by then somebody may have given it more rights."""

Fetched = BookObject | Unprocessable
"""The object, or why the provider has none to show (it was deleted, never was this account's, or the key is refused).
"""


class Asking:
    """Questions to providers' APIs, each under the source's own key and for the account that the event was of."""

    def __init__(self, apis: ProviderApis, now: Callable[[], datetime]) -> None:
        self._apis = apis
        self._now = now
        self._silent: dict[tuple[str, str], tuple[datetime, TryAgain]] = {}
        self._refused: dict[tuple[str, bytes, str, str], tuple[datetime, KeyRefused]] = {}

    def ask(self, source: Source, account: str, kind: str, external_id: str) -> Fetched:
        """Raises `TryAgain` where no answer came, or none is due yet. A key that is refused is no outage: the answer is
        that there will be none."""
        whom = (source.id, account)
        assert source.api_key is not None
        door = (source.id, source.api_key, account, kind)
        until, refusal = self._refused.get(door, (None, None))
        if until is not None and refusal is not None and self._now() < until:
            return refusal
        self._respect_silence(whom)
        try:
            return self._apis.of(source, longest_wait=LONGEST_WAIT).fetch(kind, external_id, account=account)
        except KeyRefused as refused:
            self._refused[door] = (self._now() + REFUSED, refused)
            return refused
        except Unprocessable as reason:
            return reason
        except TryAgain as error:
            pause = PAUSE if error.after_seconds is None else timedelta(seconds=error.after_seconds)
            self._silent[whom] = (self._now() + pause, error)
            raise

    def _respect_silence(self, whom: tuple[str, str]) -> None:
        if whom not in self._silent:
            return
        until, error = self._silent[whom]
        left = (until - self._now()).total_seconds()
        if left > 0:
            again = NotYet if isinstance(error, NotYet) else TryAgain
            raise again(f"not asked again yet, after: {error}", after_seconds=left)
        del self._silent[whom]
