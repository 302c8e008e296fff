"""The life of an invoice of billhook's own, in the field's words.

    draft ──finalize──▶ open ──pay──▶ paid
      │                  ├──void──▶ void
      │ delete           └──write_off──▶ uncollectible ──pay──▶ paid
      ▼                                        └──void──▶ void
    deleted

An invoice with a number is never deleted: it is voided, and keeps the number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

State = Literal["draft", "open", "paid", "void", "uncollectible", "deleted"]
Verb = Literal["finalize", "pay", "void", "write_off", "delete"]

_AFTER: Final[Mapping[State, Mapping[Verb, State]]] = {
    "draft": {"finalize": "open", "delete": "deleted"},
    "open": {"pay": "paid", "void": "void", "write_off": "uncollectible"},
    "uncollectible": {"pay": "paid", "void": "void"},
    "paid": {},
    "void": {},
    "deleted": {},
}
_IT_IS: Final[Mapping[State, str]] = {
    "draft": "a draft",
    "open": "open",
    "uncollectible": "written off as uncollectible",
    "paid": "paid",
    "void": "void",
    "deleted": "deleted",
}
_TO: Final[Mapping[Verb, str]] = {
    "finalize": "finalize it",
    "pay": "mark it as paid",
    "void": "void it",
    "write_off": "write it off",
    "delete": "delete it",
}
_INSTEAD: Final[Mapping[State, str]] = {
    "paid": "To take it back, or a part of it, make a credit note.",
    "void": "That is final. Make a new invoice.",
    "deleted": "That is final. Make a new draft.",
}


class IllegalTransition(ValueError):
    """What the invoice is, what was asked of it, and what could be."""


def verbs(state: State) -> tuple[Verb, ...]:
    """What may be done with an invoice in this state."""
    return tuple(_AFTER[state])


def after(state: State, verb: Verb) -> State:
    """The state that follows. Raises `IllegalTransition` where the verb is not one for this state."""
    follows = _AFTER[state].get(verb)
    if follows is None:
        instead = _INSTEAD.get(state) or f"You can {_either([_TO[possible] for possible in verbs(state)])}."
        raise IllegalTransition(f"The invoice is {_IT_IS[state]}, so you cannot {_TO[verb]}. {instead}")
    return follows


def _either(words: list[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]
