"""Secrets at rest: encrypted with a key that the database does not hold."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from billhook.errors import SettingsError


def new_key() -> str:
    """A fresh encryption key, as text for a setting or a file."""
    return Fernet.generate_key().decode()


class Vault:
    """Seals and opens secrets (Fernet: AES-128-CBC with HMAC-SHA256).

    The first key seals, all of them open: put a new key in front to rotate, and take the old one away when every secret
    has been sealed again (`billhook secrets reseal`).
    """

    def __init__(self, keys: Sequence[str]) -> None:
        try:
            self._each = [Fernet(key) for key in keys]
            self._fernet = MultiFernet(self._each)
        except ValueError as error:
            raise SettingsError(
                "BILLHOOK_ENCRYPTION_KEYS holds something that is not a key: each is 32 bytes in URL-safe base64"
                " (make one with `billhook new-key`)."
            ) from error

    def seal(self, secret: str) -> bytes:
        return self._fernet.encrypt(secret.encode())

    def place_of_key(self, sealed: bytes) -> int | None:
        """Which key opens it: 0 is the current one; None where none does."""
        for place, fernet in enumerate(self._each):
            with suppress(InvalidToken):
                fernet.decrypt(sealed)
                return place
        return None

    def open(self, sealed: bytes) -> str:
        try:
            return self._fernet.decrypt(sealed).decode()
        except InvalidToken as error:
            raise SettingsError(
                "A stored secret was sealed with another encryption key than the ones in BILLHOOK_ENCRYPTION_KEYS."
                " Put the key it was sealed with behind the current one, separated by a comma."
            ) from error
