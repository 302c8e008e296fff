"""What a refused payment means: every code that Stripe publishes has a class, and advice is kept to."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import get_args

import pytest
import stripe

from billhook.rules.declines import DECLINES, kind_of, wait_of
from billhook.rules.payment_attempts import declined

PUBLISHED = [
    "authentication_required",
    "authentication_not_handled",
    "approve_with_id",
    "call_issuer",
    "card_not_supported",
    "card_velocity_exceeded",
    "currency_not_supported",
    "do_not_honor",
    "do_not_try_again",
    "duplicate_transaction",
    "expired_card",
    "fraudulent",
    "generic_decline",
    "incorrect_address",
    "incorrect_cvc",
    "incorrect_number",
    "incorrect_pin",
    "incorrect_zip",
    "insufficient_funds",
    "invalid_account",
    "invalid_amount",
    "invalid_cvc",
    "invalid_expiry_month",
    "invalid_expiry_year",
    "invalid_number",
    "invalid_pin",
    "issuer_not_available",
    "lost_card",
    "merchant_blacklist",
    "new_account_information_available",
    "no_action_taken",
    "not_permitted",
    "offline_pin_required",
    "online_or_offline_pin_required",
    "pickup_card",
    "pin_try_exceeded",
    "processing_error",
    "reenter_transaction",
    "restricted_card",
    "revocation_of_all_authorizations",
    "revocation_of_authorization",
    "security_violation",
    "service_not_allowed",
    "stolen_card",
    "stop_payment_order",
    "testmode_decline",
    "transaction_not_allowed",
    "try_again_later",
    "withdrawal_count_limit_exceeded",
    "mobile_device_authentication_required",
    "partner_generic_decline",
    "invalid_customer_account",
    "payment_limit_exceeded",
    "invalid_billing_agreement",
    "partner_expired_card",
    "partner_processing_error",
    "partner_insufficient_funds",
    "partner_invalid_currency",
    "partner_invalid_amount",
    "invalid_business_account",
    "partner_high_risk_customer",
    "compliance_violation",
    "payment_disputed",
    "invalid_authorization",
    "invalid_payment_information",
    "partner_payment_not_found",
    "expired_payment_information",
    "partner_duplicate_transaction",
]
"""https://docs.stripe.com/declines/codes, of cards and of other payment methods, as of 2026."""

OF_PAYING = re.compile(
    "card_decl|expired|insufficient|incorrect_|invalid_(cvc|expiry|number|card)|mandate|debit_not|^bank_account_|declin"
    "|^account_(closed|invalid)|no_account|refer_to|^authentication_|_action|unactivated|restricted|^processing"
)
"""What sounds as if a payment was refused, among all the errors that Stripe's API has."""
NOT_OF_PAYING = frozenset(
    {
        # Keys, links and objects that are too old, or not set up.
        *("api_key_expired", "platform_api_key_expired", "capture_charge_authorization_expired", "coupon_expired"),
        *("charge_expired_for_capture", "customer_session_expired", "setup_intent_setup_attempt_expired"),
        "financial_account_capability_restricted",
        # The merchant's own bank account, or one that is being set up.
        *("bank_account_exists", "bank_account_verification_failed", "invalid_mandate_reference_prefix_format"),
        *("setup_intent_mandate_invalid", "balance_insufficient"),
        # It is read from the payment, which says what came of it (`StripeCollecting`).
        *("payment_intent_payment_attempt_expired", "authentication_failure"),
    }
)


def test_every_published_decline_code_has_a_class() -> None:
    missing = set(PUBLISHED) - set(DECLINES)
    assert not missing, f"say in `rules/declines.py` what these mean: {sorted(missing)}"


def test_every_error_of_the_sdk_that_refuses_a_payment_has_a_class() -> None:
    codes = _literals(stripe.PaymentIntent.LastPaymentError.__annotations__["code"])
    assert len(codes) > 100
    refused = {code for code in codes if OF_PAYING.search(code)}
    assert refused >= NOT_OF_PAYING
    missing = refused - set(DECLINES) - NOT_OF_PAYING
    assert not missing, f"say in `rules/declines.py` what these mean, or here that they refuse nothing: {missing}"


def _literals(hint: object) -> set[str]:
    """All strings of all literals within a type."""
    parts = get_args(hint)
    return {part for part in parts if isinstance(part, str)} | {one for part in parts for one in _literals(part)}


@pytest.mark.parametrize(
    ("code", "decline_code", "kind"),
    [
        ("card_declined", "insufficient_funds", "soft"),
        ("card_declined", "generic_decline", "soft"),
        ("processing_error", None, "soft"),
        ("card_declined", "lost_card", "hard"),
        ("expired_card", "expired_card", "hard"),
        ("card_declined", "stolen_card", "hard"),
        ("card_declined", "do_not_try_again", "hard"),
        ("card_declined", "a_code_of_tomorrow", "soft"),
        ("payment_intent_mandate_invalid", None, "hard"),
        ("authentication_required", "authentication_required", "requires_action"),
        ("card_declined", "authentication_not_handled", "requires_action"),
        ("invoice_payment_intent_requires_action", None, "requires_action"),
        (None, None, "soft"),
    ],
)
def test_what_a_decline_means(code: str | None, decline_code: str | None, kind: str) -> None:
    assert declined(code, decline_code).kind == kind


def test_whoever_forbids_is_heard_and_whoever_allows_promises_nothing() -> None:
    assert kind_of("card_declined", "do_not_honor", "do_not_try_again") == "hard"
    assert kind_of("card_declined", "generic_decline", "confirm_card_data") == "hard"
    assert kind_of("card_declined", "do_not_honor", None, "03") == "hard"
    assert kind_of("card_declined", "insufficient_funds", "try_again_later") == "soft"
    assert kind_of("card_declined", "stolen_card", "try_again_later") == "hard"


def test_the_network_says_how_long_to_wait() -> None:
    assert wait_of("card_declined", "27") == timedelta(days=4)
    assert wait_of("card_decline_rate_limit_exceeded") == timedelta(days=1)
    assert wait_of("card_declined", "02") is None
    assert declined("card_declined", "insufficient_funds", network_advice="26").wait == timedelta(days=2)
    assert declined("card_declined", "lost_card", network_advice="26").wait is None
