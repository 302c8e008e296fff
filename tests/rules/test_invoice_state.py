"""Which way an invoice may go, and what is said when it may not."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billhook.rules.invoice_state import IllegalTransition, State, Verb, after, verbs

LEGAL: dict[tuple[State, Verb], State] = {
    ("draft", "finalize"): "open",
    ("draft", "delete"): "deleted",
    ("open", "pay"): "paid",
    ("open", "void"): "void",
    ("open", "write_off"): "uncollectible",
    ("uncollectible", "pay"): "paid",
    ("uncollectible", "void"): "void",
}
STATES: tuple[State, ...] = get_args(State)
VERBS: tuple[Verb, ...] = get_args(Verb)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("verb", VERBS)
def test_an_invoice_goes_only_where_the_field_says(state: State, verb: Verb) -> None:
    if (state, verb) in LEGAL:
        assert after(state, verb) == LEGAL[state, verb]
        assert verb in verbs(state)
    else:
        with pytest.raises(IllegalTransition, match=r"^The invoice is .+, so you cannot .+\. .+\.$"):
            after(state, verb)
        assert verb not in verbs(state)


@given(st.lists(st.sampled_from(VERBS), max_size=12))
def test_whatever_is_tried_a_numbered_invoice_is_never_deleted_and_an_end_is_an_end(tried: list[Verb]) -> None:
    state: State = "draft"
    states = [state]
    for verb in tried:
        try:
            state = after(state, verb)
        except IllegalTransition:
            continue
        states.append(state)
    assert "deleted" not in states or "open" not in states
    assert not {"paid", "void", "deleted"} & set(states[:-1])


def test_a_refusal_says_what_the_invoice_is_and_what_can_be_done() -> None:
    with pytest.raises(IllegalTransition) as refused:
        after("draft", "pay")
    assert str(refused.value) == (
        "The invoice is a draft, so you cannot mark it as paid. You can finalize it or delete it."
    )
    with pytest.raises(IllegalTransition, match="credit note"):
        after("paid", "void")
