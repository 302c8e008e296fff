"""The final action of a case that was given up. It is harmless to take twice: a provider that has done it says so."""

from __future__ import annotations

from billhook.actions.invoices import write_off
from billhook.errors import Refused
from billhook.runtime.clock import Clock
from billhook.runtime.provider_apis import ProviderApis, can_collect
from billhook.store.database import Database
from billhook.store.dunning_cases import Case
from billhook.store.dunning_policies import PolicyVersion
from billhook.store.own_invoices import OWN
from billhook.store.sources import get_source


class FinalAction:
    def __init__(self, database: Database, apis: ProviderApis, clock: Clock) -> None:
        self._database = database
        self._apis = apis
        self._clock = clock

    def take(self, case: Case, version: PolicyVersion) -> str:
        """Take it; returns why it could not be, or nothing. Raises `TryAgain`."""
        if case.source_id == OWN and case.final_action == "mark_uncollectible":
            return self._write_off(case)
        source_id = version.source_id if case.source_id == OWN else case.source_id
        with self._database.read() as tx:
            source = get_source(tx, source_id, merchant_id=case.merchant_id) if source_id else None
        if source is None or not can_collect(source):
            return "The source has no API key, so nothing was done at the provider."
        api = self._apis.collecting(source)
        if case.final_action == "mark_uncollectible":
            return api.mark_uncollectible(case.invoice, account=case.account) or ""
        if case.subscription is None:
            return "The invoice belongs to no subscription, so there is none to end."
        if case.final_action == "pause_collection":
            return api.pause_collection(case.subscription, account=case.account) or ""
        return api.cancel_subscription(case.subscription, account=case.account) or ""

    def _write_off(self, case: Case) -> str:
        try:
            with self._database.begin() as tx:
                write_off(tx, case.invoice_id, now=self._clock())
        except Refused as reason:
            return str(reason)
        return ""
