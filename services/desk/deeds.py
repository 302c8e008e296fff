"""What a request does, in the words of the audit log: `POST /v1/endpoints/ep_…/rotate` is `endpoint.rotate`, done to
that endpoint. The same words as the console's and the commands'."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qs

import msgspec

from billhook.decoding import decode
from billhook.store.schema import ids_among

_VERBS: Final = {"POST": "add", "PUT": "set", "PATCH": "change", "DELETE": "delete"}
_NOUNS: Final = {"cases": "dunning_case", "runs": "reconciliation_run", "views": "merchant_view"}
"""Where a word of the path says too little by itself."""


@dataclass(frozen=True, slots=True)
class Deed:
    action: str
    subjects: Sequence[str]
    """The ids in the path, what it is done to last; without any, the merchant that the query names."""


def deed_of(method: str, path: str, query: bytes) -> Deed:
    """Of a path under `/v1/`. Words in the plural are collections: the one before an id says what that is of."""
    words = path.split("/")[2:]
    ids = ids_among(words)
    at = words.index(ids[-1]) if ids else len(words) - (not words[-1].endswith("s"))
    of, after = words[at - 1], words[at + bool(ids) :]
    action = _action(_VERBS.get(method, method.lower()), of if after and not ids else _one(of), after)
    return Deed(action.replace("-", "_"), ids or _merchant_of(query))


def _action(verb: str, noun: str, after: Sequence[str]) -> str:
    if not after:
        return f"{noun}.{verb}"
    if verb != "add":
        return f"{noun}.{verb}_{after[0]}"
    if after[0].endswith("s"):
        return f"{_one(after[0])}.add"
    return f"{noun}.{after[0]}"


def _one(collection: str) -> str:
    return _NOUNS.get(collection, collection.removesuffix("s"))


def _merchant_of(query: bytes) -> list[str]:
    return ids_among(parse_qs(query.decode("latin-1")).get("merchant_id", []))


class _Why(msgspec.Struct):
    reason: str | None = None


def reason_in(body: bytes) -> str | None:
    """The reason that a body gives, if it does."""
    try:
        return decode(body, _Why).reason if body else None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
