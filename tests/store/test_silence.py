"""Who waits for a database that does not answer, and who is told at once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from billhook.errors import StoreAway
from billhook.store.silence import Silence

ANSWER = 4.0


class Story:
    """A silence, its clock, and somebody else who asks meanwhile."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.silence = Silence(ANSWER, lambda: self.now)
        self.other = ThreadPoolExecutor(1)

    def fall_silent(self) -> None:
        self.silence.ask()
        self.now += ANSWER
        self.silence.waited()


def refused(ask: Callable[[], None]) -> bool:
    try:
        ask()
    except StoreAway:
        return True
    return False


@pytest.fixture
def story() -> Story:
    return Story()


def test_who_waited_behind_whoever_waited_in_vain_is_told_the_same(story: Story) -> None:
    silence = story.silence
    story.other.submit(silence.ask).result()
    assert not story.other.submit(refused, silence.still).result()
    story.fall_silent()
    assert story.other.submit(refused, silence.still).result()
    assert refused(silence.ask)


def test_one_tries_every_now_and_then_and_the_first_answer_is_for_all(story: Story) -> None:
    story.fall_silent()
    for _ in range(3):
        assert refused(story.silence.ask)
        story.now += ANSWER / 8
        assert not refused(story.silence.ask), "it is its turn"
        assert not refused(story.silence.still), "and it waits for its answer"
    story.silence.answered()
    assert not any(refused(story.silence.ask) for _ in range(3))


def test_what_failed_at_once_or_beside_others_says_nothing_of_the_next(story: Story) -> None:
    silence = story.silence
    silence.ask()
    silence.waited()  # a refused connection
    assert not refused(silence.ask)
    story.now += ANSWER / 2
    story.other.submit(silence.answered).result()
    story.now += ANSWER
    silence.waited()  # its packets were swallowed before others were answered
    assert not refused(silence.ask)


def test_whoever_waits_for_ever_is_never_told() -> None:
    patient = Silence(None)
    patient.waited()
    assert not refused(patient.ask)
