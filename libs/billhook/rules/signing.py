"""Standard Webhooks 1.0.0: HMAC-SHA256 (scheme `v1`) or Ed25519 (`v1a`) over `id.timestamp.body`, in base64.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md

A secret's prefix names its scheme, and base64 follows:

whsec_   v1: the key that both sides share; also without the prefix
whsk_    v1a: the private key, 32 bytes of seed and, mostly, the 32 bytes of its public key after them
whpk_    v1a: the public key, for receivers
"""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from secrets import token_bytes
from typing import TYPE_CHECKING, Final, Literal

from billhook.errors import SettingsError, SignatureRefused

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

ID: Final = "webhook-id"
TIMESTAMP: Final = "webhook-timestamp"
SIGNATURE: Final = "webhook-signature"

Scheme = Literal["v1", "v1a"]

_SHARED = "whsec_"
_PRIVATE = "whsk_"
_PUBLIC = "whpk_"
_ED25519_BYTES = 32
_SECONDS = re.compile(r"[0-9]{1,12}\Z")


def new_secret(scheme: Scheme) -> str:
    """A fresh secret to sign with: 24 random bytes (the fewest that are allowed) for `v1`, a key pair for `v1a`."""
    if scheme == "v1":
        return _SHARED + _base64(token_bytes(24))
    seed = token_bytes(_ED25519_BYTES)
    return _PRIVATE + _base64(seed + _of_seed(seed).public_key().public_bytes_raw())


def public_key(secret: str) -> str:
    """The `whpk_` that verifies what this `whsk_` signs, to give to the receiver."""
    if not secret.startswith(_PRIVATE):
        raise SettingsError("Only a `whsk_` secret has a public key; with `v1` both sides hold the same secret.")
    return _PUBLIC + _base64(_private_key(secret).public_key().public_bytes_raw())


def signing_key(secret: str) -> bytes:
    """The key in a `v1` secret: base64, with or without its `whsec_` and its padding.

    Raises `SettingsError` for a secret that is empty or no base64; the message does not repeat it.
    """
    try:
        key = _decoded(secret.removeprefix(_SHARED))
    except ValueError:
        raise SettingsError("A signing secret must be base64, with or without `whsec_` before it.") from None
    if not key:
        raise SettingsError("A signing secret must not be empty.")
    return key


def sign(secret: str, message_id: str, at: datetime, body: bytes) -> str:
    """One signature, e.g. `v1,g0hM9SsE…`. Several (while a secret is rotated) go into one header, a space between."""
    return _signer(secret)(_signed(message_id, int(at.timestamp()), body))


def signed_headers(secrets: Sequence[str], message_id: str, at: datetime, body: bytes) -> dict[str, str]:
    """The three headers of one delivery attempt, signed with every one of `secrets`, each in its scheme.

    The id stays the same over all attempts of a message, `at` is the attempt's own time. Raises `SettingsError` if a
    secret is unusable, or if there is none: an unsigned message is worse than a late one.
    """
    if not secrets:
        raise SettingsError("There is no secret to sign with; give the endpoint one.")
    timestamp = int(at.timestamp())
    signed = _signed(message_id, timestamp, body)
    return {
        ID: message_id,
        TIMESTAMP: str(timestamp),
        SIGNATURE: " ".join([_signer(secret)(signed) for secret in secrets]),
    }


def verify(
    headers: Mapping[str, str], body: bytes, secrets: Sequence[str], now: datetime, tolerance_seconds: int
) -> None:
    """Return if one of `secrets` signed exactly this near `now`; else raise `SignatureRefused`, whatever was sent.

    `headers` has lower-case names. Signatures of other schemes than `v1` are passed over, as the specification asks.
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
        expected = _hmac(key, _signed(message_id, int(timestamp), body)).encode()
        if any(hmac.compare_digest(expected, signature) for signature in given):
            return
    raise SignatureRefused(
        "signature_mismatch",
        "No signature matches: another secret was used, or the id, the timestamp or the body changed after signing.",
    )


UNTIMELY: Final = frozenset({"timestamp_too_old", "timestamp_in_future"})
"""Codes of what `refuse_distant` refuses."""


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


# Every attempt at a delivery is signed, and reading an Ed25519 key takes about as long as signing with it.
@lru_cache(maxsize=10_000)
def _signer(secret: str) -> Callable[[bytes], str]:
    if secret.startswith(_PUBLIC):
        raise SettingsError(
            "A `whpk_` key is the public one and signs nothing; sign with the `whsk_` that it belongs to."
        )
    if secret.startswith(_PRIVATE):
        private = _private_key(secret)
        return lambda signed: f"v1a,{_base64(private.sign(signed))}"
    key = signing_key(secret)
    return lambda signed: f"v1,{_hmac(key, signed)}"


def _of_seed(seed: bytes) -> Ed25519PrivateKey:
    # Of all who sign or name a scheme, few have a key pair.
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(seed)


def _private_key(secret: str) -> Ed25519PrivateKey:
    try:
        key = _decoded(secret.removeprefix(_PRIVATE))
    except ValueError:
        raise SettingsError("A `whsk_` secret must be base64.") from None
    if len(key) not in (_ED25519_BYTES, 2 * _ED25519_BYTES):
        raise SettingsError(
            f"A `whsk_` secret must hold 32 bytes (the seed) or 64 (seed and public key); this one holds {len(key)}."
        )
    private = _of_seed(key[:_ED25519_BYTES])
    # A receiver that was given the other half would refuse everything signed with this one.
    if key[_ED25519_BYTES:] not in (b"", private.public_key().public_bytes_raw()):
        raise SettingsError("The two halves of this `whsk_` secret are not of one key pair; it was copied wrongly.")
    return private


def _signed(message_id: str, timestamp: int, body: bytes) -> bytes:
    return b"%s.%d.%s" % (message_id.encode(), timestamp, body)


def _hmac(key: bytes, signed: bytes) -> str:
    return _base64(hmac.digest(key, signed, "sha256"))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decoded(text: str) -> bytes:
    """Padding may be missing. Raises `ValueError` (as `binascii.Error` is one, too) for what is no base64."""
    text = text.rstrip("=")
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
