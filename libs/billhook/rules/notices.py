"""What merchants are told by mail: short and plain, in English, all times in UTC."""

from __future__ import annotations

import textwrap
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

_WIDTH = 72
_LONGEST_ERROR = 300


def failing_notice(
    *,
    merchant_name: str,
    url: str,
    endpoint_id: str,
    stage: str,
    failing_since: datetime,
    now: datetime,
    last_error: str,
    disables_at: datetime,
) -> tuple[str, str]:
    """Subject and text of a notice that an endpoint fails (`first`, `half`) or was disabled: because it failed for too
    long (`disabled`), or because it answered 410 (`gone`)."""
    parts = urlsplit(url)
    failing = _span(now - failing_since)
    enable = f"enable it (POST /v1/endpoints/{endpoint_id}/enable)"
    headline, happened, follows, remedy = {
        "first": (
            "is failing",
            f"Your webhook endpoint has been failing for {failing}.",
            f"We keep trying. If nothing has arrived by {_at(disables_at)}, the endpoint will be disabled.",
            "Make it answer with a 2xx status, and promptly. The first message that arrives ends the alarm.",
        ),
        "half": (
            "is still failing",
            f"Your webhook endpoint has been failing for {failing}, which is half of the time it is given.",
            f"If nothing has arrived by {_at(disables_at)}, the endpoint will be disabled.",
            "Make it answer with a 2xx status, and promptly. The first message that arrives ends the alarm.",
        ),
        "disabled": (
            "was disabled",
            f"Your webhook endpoint was disabled at {_at(now)}: it has been failing for {failing}.",
            "Nothing is sent to it any more. What was meant for it is kept for now.",
            f"Repair it, {enable}, and replay what it missed.",
        ),
        "gone": (
            "was disabled",
            f"Your webhook endpoint was disabled at {_at(now)}: it answered 410 Gone, which asks us to stop.",
            "Nothing is sent to it any more. What was meant for it is kept for now.",
            f"Nothing, if that is what you want. Otherwise {enable}, and replay what it missed.",
        ),
    }[stage]
    facts = [
        # Without its query, which may hold a token: mail passes through many machines.
        f"  Endpoint:       {parts.scheme}://{parts.netloc}{parts.path}",
        f"  Id:             {endpoint_id}",
        *([] if stage == "gone" else [f"  Failing since:  {_at(failing_since)}"]),
        f"  Last error:     {_line(last_error)[:_LONGEST_ERROR]}",
    ]
    paragraphs = [
        f"Hello {_line(merchant_name)},",
        _wrapped(happened),
        "\n".join(facts),
        _wrapped(f"What happens next: {follows}"),
        _wrapped(f"What you can do: {remedy}"),
    ]
    return f"Webhook endpoint {headline}: {parts.netloc}", "\n\n".join(paragraphs) + "\n"


def _at(instant: datetime) -> str:
    return f"{instant.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _span(length: timedelta) -> str:
    """The two largest units that say something: `2 days 12 hours`, `45 minutes`."""
    minutes = length // timedelta(minutes=1)
    units = [("day", minutes // 1440), ("hour", minutes // 60 % 24), ("minute", minutes % 60)]
    first = next((place for place, (_, count) in enumerate(units) if count), 2)
    shown = [(name, count) for name, count in units[first : first + 2] if count] or [("minute", 0)]
    return " ".join(f"{count} {name}{'' if count == 1 else 's'}" for name, count in shown)


def _line(text: str) -> str:
    """Someone else's text on one line, so that it cannot imitate a line of ours."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def _wrapped(text: str) -> str:
    return textwrap.fill(text, _WIDTH, break_long_words=False, break_on_hyphens=False)
