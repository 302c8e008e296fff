"""What a refused payment means: try another day, ask for another payment method, or for a step that only the customer
can take.

The codes are Stripe's own words, all that it publishes (https://docs.stripe.com/declines/codes) and those of its errors
that say the same of a bank account. A charge off session has nobody there to type a PIN or a CVC again, so what wants
that is as good as lost until the customer comes.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Final, Literal

DeclineKind = Literal["soft", "hard", "requires_action"]

_DECLINES: Final[Mapping[DeclineKind, tuple[str, ...]]] = {
    "soft": (
        # The bank may say yes another day.
        *("approve_with_id", "call_issuer", "card_declined", "card_velocity_exceeded", "do_not_honor"),
        *("generic_decline", "insufficient_funds", "invalid_amount", "issuer_not_available", "no_action_taken"),
        *("processing_error", "reenter_transaction", "try_again_later", "withdrawal_count_limit_exceeded"),
        *("card_decline_rate_limit_exceeded", "charge_exceeds_transaction_limit", "refer_to_customer"),
        "bank_account_declined",
        # The last look before each attempt says whether the one before has paid after all.
        "duplicate_transaction",
        # Other payment methods than cards.
        *("partner_generic_decline", "partner_processing_error", "partner_insufficient_funds"),
        *("partner_invalid_amount", "partner_payment_not_found", "partner_duplicate_transaction"),
        *("payment_limit_exceeded", "payment_method_provider_decline", "payment_method_provider_timeout"),
        # The merchant's account at the provider: nothing that the customer could mend.
        "invalid_business_account",
    ),
    "hard": (
        # The card is gone, or blocked, or of no use for this.
        *("card_not_supported", "currency_not_supported", "expired_card", "fraudulent", "highest_risk_level"),
        *("elevated_risk_level", "incorrect_number", "invalid_account", "invalid_card_type", "invalid_expiry_month"),
        *("invalid_expiry_year", "invalid_number", "lost_card", "merchant_blacklist"),
        *("new_account_information_available", "not_permitted", "pickup_card", "restricted_card"),
        *("security_violation", "service_not_allowed", "stolen_card", "transaction_not_allowed"),
        *("live_mode_test_card", "test_mode_live_card", "testmode_decline"),
        # Somebody said not to do it again.
        *("do_not_try_again", "previously_declined_do_not_retry", "stop_payment_order"),
        *("revocation_of_all_authorizations", "revocation_of_authorization", "blocklist", "rule"),
        # It was typed wrongly, or has to be typed.
        *("incorrect_address", "incorrect_cvc", "incorrect_pin", "incorrect_postal_code", "incorrect_zip"),
        *("invalid_cvc", "invalid_pin", "offline_pin_required", "online_or_offline_pin_required", "pin_try_exceeded"),
        # Bank accounts and mandates.
        *("account_closed", "account_invalid", "account_number_invalid", "bank_account_bad_routing_numbers"),
        *("bank_account_restricted", "bank_account_unusable", "bank_account_unverified", "billing_invalid_mandate"),
        *("debit_not_authorized", "india_recurring_payment_mandate_canceled", "no_account", "no_such_account"),
        *("payment_intent_mandate_invalid", "routing_number_invalid", "sepa_unsupported_account"),
        # Other payment methods.
        *("compliance_violation", "expired_payment_information", "expired_payment_method", "invalid_authorization"),
        *("invalid_billing_agreement", "invalid_customer_account", "invalid_payment_information"),
        *("partner_expired_card", "partner_high_risk_customer", "partner_invalid_currency", "payment_disputed"),
        *("payment_method_bank_account_blocked", "payment_method_currency_mismatch"),
        *("payment_method_customer_decline", "payment_method_not_available", "payment_method_restricted"),
        *("payment_method_unactivated", "payment_method_unsupported_type"),
    ),
    "requires_action": (
        *("authentication_not_handled", "authentication_required", "mobile_device_authentication_required"),
        *("invoice_payment_intent_requires_action", "payment_intent_action_required"),
        "subscription_payment_intent_requires_action",
    ),
}
DECLINES: Final[Mapping[str, DeclineKind]] = {code: kind for kind, codes in _DECLINES.items() for code in codes}
"""What each code means. One that is not here is taken for a bank that may say yes another day."""

FORBIDDING_ADVICE: Final = frozenset({"do_not_try_again", "confirm_card_data"})
"""What an issuer says of this one charge, in Stripe's words: not again, or not before the card's data are right."""
FORBIDDING_NETWORK_ADVICE: Final = frozenset(
    {
        "01",  # there is a newer card
        "03",  # do not try again
        "21",  # the customer ended the recurring payments
        "41",  # a virtual card that was good for one payment
    }
)
"""The same in the card network's own digits."""
NETWORK_WAITS: Final[Mapping[str, timedelta]] = {
    "24": timedelta(hours=1),
    "25": timedelta(hours=24),
    "26": timedelta(days=2),
    "27": timedelta(days=4),
    "28": timedelta(days=6),
    "29": timedelta(days=8),
    "30": timedelta(days=10),
}
"""For how long the network wants no other attempt; it fines those who come earlier."""
_CODE_WAITS: Final[Mapping[str, timedelta]] = {"card_decline_rate_limit_exceeded": timedelta(hours=24)}


def kind_of(
    code: str | None, decline_code: str | None, advice: str | None = None, network_advice: str | None = None
) -> DeclineKind:
    """Of all that was said, the word that forbids most counts; advice to try again is no promise that it helps."""
    kinds = {DECLINES.get(word or "", "soft") for word in (code, decline_code)}
    if advice in FORBIDDING_ADVICE or network_advice in FORBIDDING_NETWORK_ADVICE:
        return "hard"
    return "requires_action" if "requires_action" in kinds else "hard" if "hard" in kinds else "soft"


def wait_of(code: str | None, network_advice: str | None = None) -> timedelta | None:
    """For how long nothing is to be tried again with the same card."""
    return NETWORK_WAITS.get(network_advice or "") or _CODE_WAITS.get(code or "")
