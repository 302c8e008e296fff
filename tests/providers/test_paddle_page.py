"""docs/paddle.md says what the code does."""

from __future__ import annotations

from pathlib import Path

from billhook.providers.paddle import EVENTS, IGNORED

PAGE = (Path(__file__).parents[2] / "docs" / "paddle.md").read_text(encoding="utf-8")


def test_every_event_is_listed_with_what_merchants_hear() -> None:
    rows = dict(line.strip("| ").split(" | ", 1) for line in PAGE.splitlines() if line.startswith("| `"))
    for event_type, meaning in EVENTS.items():
        if event_type == "adjustment.updated":
            continue  # its decision says what is told
        said = ", ".join(f"`{fact}`" for fact in meaning.facts) or "nothing; the book changes"
        assert rows[f"`{event_type}`"] == said
    for about, reason in IGNORED.items():
        assert rows[f"`{about}`"] == reason
