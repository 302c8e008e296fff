"""How the console's pages are made: templates, and the few ways in which values are written in them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any, Final

import jinja2
from markupsafe import Markup, escape
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from billhook.documents import built_in
from billhook.rules.money import format_money
from services.desk.console.case_words import said_of
from services.desk.console.cookies import named
from services.desk.console.fields import state_kind

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self';"
    " connect-src 'self'; frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors {}"
)
"""Everything comes from the desk itself, and nothing stands in the page that a sender could have written."""

HEADERS: Final[Mapping[str, str]] = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex, nofollow",
    "Cross-Origin-Opener-Policy": "same-origin",
}

STATIC: Final = {
    "console.css": "text/css; charset=utf-8",
    "console.js": "text/javascript; charset=utf-8",
    "passkeys.js": "text/javascript; charset=utf-8",
    "htmx.min.js": "text/javascript; charset=utf-8",
    "mark.svg": "image/svg+xml",
}


@cache
def static(name: str) -> bytes:
    return (files("services.desk.console") / "static" / name).read_bytes()


@cache
def static_path(name: str) -> str:
    """An address that changes with the file, so that browsers may keep it for good."""
    return f"/console/{name}?{hashlib.sha256(static(name)).hexdigest()[:12]}"


def page(request: Request, template: str, status: int = 200, *, frames: str = "'none'", **values: Any) -> Response:
    """A page of the console; `frames` says who may have it in a frame."""
    session = getattr(request.state, "session", None)
    said = request.cookies.get(named(request, SAID))
    html = (
        environment()
        .get_template(template)
        .render(
            session=session,
            csrf=getattr(request.state, "csrf", ""),
            path=request.url.path,
            said=said and _readable(said),
            **values,
        )
    )
    response = HTMLResponse(html, status, {**HEADERS, "Content-Security-Policy": POLICY.format(frames)})
    if said:
        response.delete_cookie(named(request, SAID), path="/")
    return response


SAID: Final = "billhook_said"
"""A sentence about what was just done, for the next page."""


def say(request: Request, response: Response, sentence: str) -> Response:
    name, value = named(request, SAID), sentence.encode().hex()
    response.set_cookie(name, value, max_age=60, httponly=True, samesite="lax", path="/")
    return response


def _readable(said: str) -> str:
    try:
        return bytes.fromhex(said).decode()[:500]
    except ValueError:
        return ""


@lru_cache(maxsize=1)
def environment() -> jinja2.Environment:
    made = built_in.environment("services.desk.console")
    made.filters.update(
        money=money,
        time=time,
        day=day,
        lasting=lasting,
        size=size,
        count=count,
        words=words,
        coded=coded,
        kind=state_kind,
        said=said_of,
    )
    made.globals.update(asset=static_path)
    return made


@lru_cache(maxsize=4096)
def money(amount: int | None, currency: str | None) -> str:
    """Never bare minor units."""
    return "–" if amount is None or currency is None else format_money(amount, currency, "en")


def time(at: datetime | None) -> Markup:
    """In UTC, until the script writes it in the zone of whoever reads it."""
    if at is None:
        return Markup("–")
    # In a list it stands in every row: put together by `Markup.format` it took longer than all else in the row.
    text = at.isoformat(" ", "seconds")
    return Markup(f'<time datetime="{at.isoformat()}">{text[:19]} UTC</time>')


def day(at: datetime | None) -> Markup:
    if at is None:
        return Markup("–")
    text = at.isoformat()
    return Markup(f'<time datetime="{text}" data-day>{text[:10]}</time>')


def lasting(span: timedelta | float | None) -> str:
    """A span of time as people say it: 350 ms, 12 s, 4 min, 3 h, 2 d."""
    if span is None:
        return "–"
    seconds = span.total_seconds() if isinstance(span, timedelta) else span
    if seconds < 1:
        return f"{max(0, seconds) * 1000:.0f} ms"
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length or (unit == "d" and seconds >= length):
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def size(count: int | None) -> str:
    if count is None:
        return "–"
    if count < 1024:
        return f"{count} B"
    return f"{count / 1024:.1f} KiB" if count < 1024 * 1024 else f"{count / 1024 / 1024:.1f} MiB"


def count(number: int, most: int | None = None) -> str:
    """A number that was counted up to `most`."""
    return f"{number:,}" if most is None or number < most else f"{most:,}+"


_CODE: Final = re.compile(r"`([^`]+)`")


def coded(text: str) -> Markup:
    """A sentence with what stands between backticks as code."""
    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(text))))


def words(name: str) -> str:
    """A name of ours as words."""
    return name.replace("_", " ").replace(".", " ")
