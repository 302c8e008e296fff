"""Secrets as the sender shows them, and whether one of them signed something."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Sequence


class SharedKey:
    """`whsec_…`: both sides hold it, and compute the same HMAC-SHA256."""

    scheme = "v1"

    def __init__(self, key: bytes) -> None:
        self._key = key

    def signed(self, content: bytes, signatures: Sequence[str]) -> bool:
        """Whether one of these signatures, all of this scheme and ASCII, is of this content."""
        expected = base64.b64encode(hmac.digest(self._key, content, "sha256"))
        return any(hmac.compare_digest(expected, signature.encode()) for signature in signatures)


class PublicKey:
    """`whpk_…`: verifies Ed25519 signatures, and cannot make one."""

    scheme = "v1a"

    def __init__(self, key: bytes) -> None:
        try:
            from cryptography.exceptions import InvalidSignature
            from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        except ImportError as error:
            raise ImportError("A `whpk_` key needs cryptography: install billhook-webhooks[ed25519]") from error
        self._key = Ed25519PublicKey.from_public_bytes(key)
        self._invalid = InvalidSignature

    def signed(self, content: bytes, signatures: Sequence[str]) -> bool:
        """Whether one of these signatures, all of this scheme, is of this content."""
        return any(self._verifies(content, signature) for signature in signatures)

    def _verifies(self, content: bytes, signature: str) -> bool:
        try:
            self._key.verify(_decoded(signature), content)
        except (ValueError, self._invalid):
            return False
        return True


Key = SharedKey | PublicKey


def key_of(secret: str) -> Key:
    """Raises `ValueError` for what is no secret to verify with; the message does not repeat it."""
    if secret.startswith("whsk_"):
        raise ValueError("This is the sender's private key (`whsk_`). Verify with its public key (`whpk_`).")
    prefix = next((prefix for prefix in ("whsec_", "whpk_") if secret.startswith(prefix)), "")
    try:
        key = _decoded(secret.removeprefix(prefix))
    except ValueError:
        raise ValueError("A secret must be `whsec_` or `whpk_`, followed by base64.") from None
    if not key:
        raise ValueError("A secret must not be empty.")
    if prefix != "whpk_":
        return SharedKey(key)
    if len(key) != 32:
        raise ValueError(f"A `whpk_` key holds 32 bytes, and this one {len(key)}; was it cut off?")
    return PublicKey(key)


def _decoded(text: str) -> bytes:
    """Padding may be missing. Raises `ValueError` for what is no base64."""
    text = text.rstrip("=")
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
