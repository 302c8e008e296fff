"""Addresses that people give: of the web, with a host, and with nothing secret in them."""

from __future__ import annotations

from urllib.parse import urlsplit

from billhook.errors import Refused

LONGEST_URL = 2000


def check_url(field: str, url: str) -> None:
    """Raise `Refused` unless this is an http or https address with a host and nothing secret in it."""
    try:
        parts = urlsplit(url)
        reachable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, a bracket left open
        reachable = False
    if not reachable or len(url) > LONGEST_URL or not url.isprintable() or " " in url or "\\" in url:
        raise Refused("url_invalid", f"`{field}` must be an http:// or https:// address with a host.")
    if "@" in parts.netloc:
        raise Refused("url_invalid", f"`{field}` must not hold a user name or password: it is shown and logged.")
