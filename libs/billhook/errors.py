"""Every error billhook raises on purpose, named for what to do next.

BillhookError
├── SettingsError        the operator corrects a setting
├── LanguageError        the translator corrects a file of words
├── Refused              the sender corrects the request; it costs nobody else anything
│   ├── SignatureRefused     (401)
│   └── BodyRefused          (400)
├── Unprocessable        trying again cannot help: a dead letter, with this reason
│   └── KeyRefused           a provider refuses the API key: the operator gives another
│       └── NotPermitted         or gives it the permission that is named
└── TryAgain             the world was not ready: try again later
    └── NotYet               it was not tried at all: its turn comes later

StoreAway                the database did not answer: as what its driver raises, and beside it
"""

from __future__ import annotations

from typing import Any, Final

ANSWER_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message"],
            "properties": {
                "code": {"type": "string", "description": "For machines; does not change."},
                "message": {"type": "string", "description": "For people: what to do."},
            },
        }
    },
}
"""The one shape in which every HTTP service refuses, as a JSON schema for its OpenAPI document."""


class BillhookError(Exception):
    """What happened, to what, and what to do about it."""


class SettingsError(BillhookError):
    """A setting is missing or cannot work."""


class LanguageError(BillhookError):
    """A file of `documents/languages/` is not as documents need it."""


class Refused(BillhookError):
    """A request that is the sender's to correct. `code` is for machines, the message for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class SignatureRefused(Refused):
    """The signature is missing, malformed, stale, from the future, or made with another secret."""


class BodyRefused(Refused):
    """The body is not what the provider sends: not JSON, no id, nested too deeply."""


class Unprocessable(BillhookError):
    """The event was accepted but cannot be understood, today or later, without a person."""


class KeyRefused(Unprocessable):
    """A provider does not answer under the API key it is asked with, today or later."""


class NotPermitted(KeyRefused):
    """A provider's API key may not do what it was used for. The message names the permission, as the provider does."""


class AccountRefused(KeyRefused):
    """A provider's API key may not see a connected account at all."""


LONGEST_PAUSE_SECONDS: Final = 3600.0
"""The longest that anybody outside is left alone because it asked for that. A `Retry-After` of days would be as good as
losing the work, and whoever is asked once an hour has no reason to complain."""


class TryAgain(BillhookError):
    """Something outside was not ready (time-out, rate limit, outage). It may say when it wants to be asked again."""

    def __init__(self, message: str, *, after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.after_seconds = None if after_seconds is None else min(LONGEST_PAUSE_SECONDS, after_seconds)


class NotYet(TryAgain):
    """Nothing was tried, and nothing failed: whoever is to be asked takes no questions now."""


class StoreAway(Exception):
    """The database did not answer in time: `billhook.store.database.is_store_away` is true of it."""
