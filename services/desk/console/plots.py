"""Small plots, drawn here as SVG: bars of one quantity over time, in classes that the style sheet colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from markupsafe import Markup

from billhook.store.figures import Rate

WIDTH: Final = 300.0
HEIGHT: Final = 64.0


@dataclass(frozen=True)
class Plot:
    """A plot and the sentence that says the same."""

    title: str
    figure: str
    """The last figure, large."""
    note: str
    svg: Markup


def bars(rates: Sequence[Rate], label: str) -> Markup:
    """A bar a span; what failed of it stands at its foot in another colour."""
    highest = max((rate.count for rate in rates), default=0) or 1
    step = WIDTH / max(len(rates), 1)
    width = step * 0.72
    pieces = []  # of numbers alone, so that nothing has to be escaped
    for place, rate in enumerate(rates):
        height, bad = HEIGHT * rate.count / highest, HEIGHT * rate.failed / highest
        said = f"{rate.at:%H:%M:%S} UTC: {rate.count:,.0f}" + (f", {rate.failed:,.0f} failed" if rate.failed else "")
        for kind, tall in (("bar", max(height, 1.5 if rate.count else 0.75)), ("bar bad", max(bad, 2) if bad else 0)):
            if tall:
                pieces.append(
                    f'<rect class="{kind if rate.count else "bar none"}" x="{place * step:.2f}"'
                    f' y="{HEIGHT - tall:.2f}" width="{width:.2f}" height="{tall:.2f}" rx="1">'
                    f"<title>{said}</title></rect>"
                )
    return Markup(
        '<svg class="plot" viewBox="0 0 {:.0f} {:.0f}" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>'
    ).format(WIDTH, HEIGHT, label, Markup("".join(pieces)))


def spans(now: datetime, lasting: timedelta, each: timedelta) -> list[datetime]:
    """The beginnings of spans up to now, on the marks of the clock, so that a span that is over stays the same."""
    since = int(now.timestamp()) // int(each.total_seconds()) * int(each.total_seconds())
    count = int(lasting / each)
    last = datetime.fromtimestamp(since, UTC)
    return [last - each * (count - 1 - place) for place in range(count)]
