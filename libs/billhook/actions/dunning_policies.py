"""Setting dunning policies. There is one owner of the retries: whoever has billhook charge must have switched the
provider's own retries off, which is looked up at the provider before the policy counts."""

from __future__ import annotations

from datetime import datetime

from billhook.errors import Refused, TryAgain
from billhook.rules.dunning_policy import Policy, refusals, scope_refusal
from billhook.runtime.provider_apis import ProviderApis, can_collect
from billhook.store.database import Database, Tx
from billhook.store.dunning_policies import PolicyVersion, retire_policy, set_policy
from billhook.store.sources import Source, get_source, list_sources


def check_owner(database: Database, apis: ProviderApis, merchant_id: str, policy: Policy) -> None:
    """Refuse a policy that charges where that cannot be, or would charge twice, or that ends with what nobody could do.
    It asks the providers, so it stands outside of any transaction. Raises `Refused`, also where a provider does not
    answer: without its word nothing changes hands."""
    ends_at_provider = policy.final_action in ("cancel_subscription", "pause_collection")
    if not policy.charges and not ends_at_provider:
        return
    with database.read() as tx:
        found = [source for source in list_sources(tx, merchant_id) if source.provider == "stripe"]
    chargeable = [source for source in found if can_collect(source)]
    if not chargeable:
        raise Refused(
            "dunning_source",
            "No source of this merchant has a Stripe API key, so billhook could charge nobody, and end no subscription."
            " Set one (`billhook sources set-api-key`), or leave the retries to the provider.",
        )
    for source in chargeable:
        try:
            _check_source(apis, source, policy)
        except TryAgain as error:
            raise Refused(
                "dunning_unanswered",
                f"Stripe did not answer whether billhook may try again for source {source.id} ({error}). Nothing was"
                " changed; ask again.",
            ) from None


def _check_source(apis: ProviderApis, source: Source, policy: Policy) -> None:
    api = apis.collecting(source)
    if (reason := api.write_refusal(account="")) is not None:
        raise Refused("dunning_key", f"The API key of source {source.id} may change nothing: {reason}")
    if policy.charges and (invoice := api.retrying_invoice(account="")) is not None:
        raise Refused(
            "dunning_owner",
            f"Stripe means to try invoice {invoice} again by itself: its own retries are on, and two who try charge"
            " twice. Switch them off (Billing → Revenue recovery → Retries), or leave the retries to the provider.",
        )


def change_policy(
    tx: Tx,
    merchant_id: str,
    policy: Policy | None,
    *,
    by: str,
    now: datetime,
    scope_kind: str = "merchant",
    scope: str = "",
    source_id: str | None = None,
) -> PolicyVersion | None:
    """Set the policy of a scope, or with None have it without one. Cases that are open keep theirs."""
    if (reason := scope_refusal(scope_kind, scope)) is not None:
        raise Refused("scope_invalid", reason)
    if policy is None:
        retire_policy(tx, merchant_id, scope_kind, scope, now)
        return None
    if found := refusals(policy):
        raise Refused("policy_invalid", "; ".join(found))
    if source_id is not None:
        source = get_source(tx, source_id, merchant_id=merchant_id)
        if source is None or not can_collect(source):
            raise Refused("source_invalid", "`source_id` must be a Stripe source of this merchant that has an API key.")
    return set_policy(tx, merchant_id, scope_kind, scope, policy, now, by=by, source_id=source_id)
