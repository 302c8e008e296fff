"""The first look at a case: what the bank said of the charge that failed before it. Events do not say of which invoice
a charge was, so the provider is asked, once, when the case is opened.

A look that has no turn at once, or no answer, is left: the first attempt looks again before it charges.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from billhook.errors import NotYet, TryAgain, Unprocessable
from billhook.rules.payment_attempts import Answer
from billhook.runtime.clock import Clock
from billhook.runtime.provider_apis import ProviderApis, can_collect
from billhook.store.database import Database
from billhook.store.dunning_cases import Case
from billhook.store.sources import get_source

LONGEST_WAIT: Final = timedelta(seconds=0.25)
"""For a turn: cases of other merchants wait meanwhile."""

PAUSE: Final = timedelta(minutes=1)
"""How long a provider that did not answer is not asked again."""


class FirstLook:
    def __init__(self, database: Database, apis: ProviderApis, clock: Clock) -> None:
        self._database = database
        self._apis = apis
        self._clock = clock
        self._silent: dict[str, datetime] = {}

    def take(self, case: Case) -> Answer | None:
        """What the bank said; None where nobody knows."""
        with self._database.read() as tx:
            source = get_source(tx, case.source_id, merchant_id=case.merchant_id)
        if source is None or not can_collect(source) or self._clock() < self._silent.get(source.id, self._clock()):
            return None
        try:
            api = self._apis.collecting(source, longest_wait=LONGEST_WAIT)
            return api.last_look(case.invoice, account=case.account)[1]
        except (NotYet, Unprocessable):
            return None
        except TryAgain:
            self._silent[source.id] = self._clock() + PAUSE
            return None
