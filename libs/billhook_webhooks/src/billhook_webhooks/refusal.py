"""The one error that a request can cause, and its reasons."""

from __future__ import annotations

from typing import Literal

Reason = Literal[
    "signature_missing",  # one of the three headers is not there
    "signature_malformed",  # a header that no sender of webhooks sends
    "signature_scheme_missing",  # signed, but in no scheme that the receiver has a secret for
    "signature_mismatch",  # another secret, or something changed after signing
    "timestamp_too_old",  # a replay, or a clock that is wrong
    "timestamp_in_future",
    "body_malformed",  # signed by the right secret, and still no event
]


class WebhookVerificationError(Exception):
    """This request is not to be trusted: answer 400 and do nothing else.

    `reason` is for machines and does not change. The message is for people, and safe to log and to answer: it repeats
    neither a secret nor what was sent.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(reason, message)
        self.reason: Reason = reason
        self.message = message

    def __str__(self) -> str:
        return self.message
