"""Standard Webhooks 1.0.0, scheme `v1`: HMAC-SHA256 over `id.timestamp.body`, in base64.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from billhook.errors import SettingsError, SignatureRefused

ID: Final = "webhook-id"
TIMESTAMP: Final = "webhook-timestamp"
SIGNATURE: Final = "webhook-signature"

_PREFIX = "whsec_"
_SECONDS = re.compile(r"[0-9]{1,12}\Z")


def signing_key(secret: str) -> bytes:
    """The key in a secret: base64, with or without its `whsec_` and its padding.

    Raises `SettingsError` for a secret that is empty or no base64; the message does not repeat it.
    """
    text = secret.removeprefix(_PREFIX).rstrip("=")
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):  # ValueError: characters beyond ASCII
        raise SettingsError("A signing secret must be base64, with or without `whsec_` before it.") from None
    if not key:
        raise SettingsError("A signing secret must not be empty.")
    return key


def sign(secret: str, message_id: str, at: datetime, body: bytes) -> str:
    """One signature, e.g. `v1,g0hM9SsE…`. Several (while a secret is rotated) go into one header, a space between."""
    return f"v1,{_signature(signing_key(secret), message_id, int(at.timestamp()), body)}"


def signed_headers(secrets: Sequence[str], message_id: str, at: datetime, body: bytes) -> dict[str, str]:
    """The three headers of one delivery attempt, signed with every one of `secrets`.

    The id stays the same over all attempts of a message, `at` is the attempt's own time.
    """
    return {
        ID: message_id,
        TIMESTAMP: str(int(at.timestamp())),
        SIGNATURE: " ".join(sign(secret, message_id, at, body) for secret in secrets),
    }


def verify(
    headers: Mapping[str, str], body: bytes, secrets: Sequence[str], now: datetime, tolerance_seconds: int
) -> None:
    """Return if one of `secrets` signed exactly this near `now`; else raise `SignatureRefused`, whatever was sent.

    `headers` has lower-case names. Signatures of other versions than `v1` are passed over, as the specification asks.
    """
    message_id, timestamp, signatures = (_header(headers, name) for name in (ID, TIMESTAMP, SIGNATURE))
    if not _SECONDS.match(timestamp):
        raise SignatureRefused("signature_malformed", f"`{TIMESTAMP}` must be whole seconds since 1970.")
    refuse_distant(int(timestamp), now, tolerance_seconds)
    versions = (entry.partition(",") for entry in signatures.split(" "))
    given = [signature.encode() for version, _, signature in versions if version == "v1"]
    if not given:
        raise SignatureRefused("signature_scheme_missing", f"`{SIGNATURE}` holds no `v1,` signature.")
    keys = _usable(secrets)
    if not keys:
        raise SignatureRefused("secret_unusable", "The source has no usable signing secret; set one at the source.")
    for key in keys:
        expected = _signature(key, message_id, int(timestamp), body).encode()
        if any(hmac.compare_digest(expected, signature) for signature in given):
            return
    raise SignatureRefused(
        "signature_mismatch",
        "No signature matches: another secret was used, or the id, the timestamp or the body changed after signing.",
    )


def refuse_distant(timestamp: int, now: datetime, tolerance_seconds: int) -> None:
    """Raise `SignatureRefused` if `timestamp` (seconds since 1970) lies too far from `now`, on either side."""
    age = int(now.timestamp()) - timestamp
    if age > tolerance_seconds:
        raise SignatureRefused(
            "timestamp_too_old",
            f"The signature is {age} s old; at most {tolerance_seconds} s are accepted. Sign every attempt anew.",
        )
    if age < -tolerance_seconds:
        raise SignatureRefused(
            "timestamp_in_future",
            f"The signature is dated {-age} s ahead; at most {tolerance_seconds} s are accepted. Check the clock.",
        )


def _header(headers: Mapping[str, str], name: str) -> str:
    value = headers.get(name, "")
    if not value:
        raise SignatureRefused("signature_missing", f"The header `{name}` is missing.")
    if not value.isascii():
        raise SignatureRefused("signature_malformed", f"The header `{name}` must be ASCII.")
    return value


def _usable(secrets: Sequence[str]) -> list[bytes]:
    keys = []
    for secret in secrets:
        try:
            keys.append(signing_key(secret))
        except SettingsError:  # the other secret of a rotation may still be good
            continue
    return keys


def _signature(key: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    signed = b"%s.%d.%s" % (message_id.encode(), timestamp, body)
    return base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
