"""Whether a request is a webhook from billhook.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Protocol

from billhook_webhooks.event import Event, read
from billhook_webhooks.keys import key_of
from billhook_webhooks.refusal import WebhookVerificationError

_ID = "webhook-id"
_TIMESTAMP = "webhook-timestamp"
_SIGNATURE = "webhook-signature"
_NAMES = (_ID, _TIMESTAMP, _SIGNATURE)

# Room for forty signatures. Each costs the receiver a computation, so their number must not be the sender's to choose.
_LONGEST = 4096
# The signed content is `id.timestamp.body`: with a full stop in the id it could be cut in two ways.
_IS_ID = re.compile(r"[!-\-/-~]+\Z")
_IS_SECONDS = re.compile(r"[0-9]{1,12}\Z")


class Headers(Protocol):
    """Any mapping of headers, and the headers of http.server, which are none."""

    def items(self) -> Iterable[tuple[str | bytes, str | bytes]]: ...


class Webhook:
    """Verifies requests with the secrets of one endpoint: `whsec_…` (scheme `v1`) or `whpk_…` (`v1a`).

    Any of several secrets is enough, so that one can be rotated without refusing anything. Raises `ValueError` for what
    is no secret.
    """

    def __init__(self, secrets: str | Iterable[str], *, tolerance_seconds: int = 300) -> None:
        self._keys = [key_of(secret) for secret in ([secrets] if isinstance(secrets, str) else secrets)]
        if not self._keys:
            raise ValueError("At least one secret is needed.")
        self._tolerance_seconds = tolerance_seconds

    def verify(self, headers: Headers, body: bytes, *, now: datetime | None = None) -> Event:
        """The event that a request carries. `body` is the raw body, exactly as it came.

        Raises `WebhookVerificationError` and nothing else, whatever was sent.
        """
        return read(self.verify_signature(headers, body, now=now), body)

    def verify_signature(self, headers: Headers, body: bytes, *, now: datetime | None = None) -> str:
        """As `verify`, for those who read the body themselves: returns the webhook's id, which is signed as well."""
        if not isinstance(body, bytes):
            raise TypeError(
                "`body` must be the raw bytes of the request: JSON that was read and written again differs."
            )
        message_id, timestamp, signatures = _three(headers)
        if not _IS_ID.match(message_id):
            raise _malformed(_ID, "must be visible ASCII without a full stop")
        if not _IS_SECONDS.match(timestamp):
            raise _malformed(_TIMESTAMP, "must be whole seconds since 1970")
        self._refuse_distant(int(timestamp), now or datetime.now(UTC))
        self._refuse_unsigned(signatures, f"{message_id}.{timestamp}.".encode() + body)
        return message_id

    def _refuse_distant(self, timestamp: int, now: datetime) -> None:
        age = int(now.timestamp()) - timestamp
        if age > self._tolerance_seconds:
            raise WebhookVerificationError(
                "timestamp_too_old", f"The signature is {age} s old; at most {self._tolerance_seconds} s are accepted."
            )
        if age < -self._tolerance_seconds:
            raise WebhookVerificationError(
                "timestamp_in_future",
                f"The signature is dated {-age} s ahead; at most {self._tolerance_seconds} s are accepted."
                " Is this machine's clock right?",
            )

    def _refuse_unsigned(self, signatures: str, content: bytes) -> None:
        given: dict[str, list[str]] = {}
        for entry in signatures.split(" "):
            scheme, _, signature = entry.partition(",")
            given.setdefault(scheme, []).append(signature)
        schemes = sorted({key.scheme for key in self._keys})
        if not any(scheme in given for scheme in schemes):
            raise WebhookVerificationError(
                "signature_scheme_missing",
                f"`{_SIGNATURE}` holds no signature of scheme {' or '.join(schemes)}, which the secrets are for.",
            )
        if not any(key.signed(content, given.get(key.scheme, ())) for key in self._keys):
            raise WebhookVerificationError(
                "signature_mismatch",
                "No signature matches: this is another endpoint's secret, or something between changed the request.",
            )


def _three(headers: Headers) -> list[str]:
    """The values of the three headers, in their order. Names have no case."""
    found: dict[str, str | bytes] = {}
    for name, value in headers.items():
        lower = (name.decode("latin-1") if isinstance(name, bytes) else name).lower()
        if lower in _NAMES:
            if lower in found:
                raise _malformed(lower, "must not be sent twice")
            found[lower] = value
    return [_text(name, found.get(name, "")) for name in _NAMES]


def _text(name: str, value: str | bytes) -> str:
    if not value:
        raise WebhookVerificationError("signature_missing", f"The header `{name}` is missing.")
    if len(value) > _LONGEST:
        raise _malformed(name, f"must not be longer than {_LONGEST} characters")
    if not value.isascii():
        raise _malformed(name, "must be ASCII")
    return value.decode() if isinstance(value, bytes) else value


def _malformed(name: str, what: str) -> WebhookVerificationError:
    return WebhookVerificationError("signature_malformed", f"The header `{name}` {what}.")
