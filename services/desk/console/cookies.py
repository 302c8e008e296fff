"""What the console's cookies are called. A browser keeps one jar for a host, whatever the port: two desks on one host
would sign each other's people out, so each has names of its own."""

from __future__ import annotations

import re
from typing import Final

from fastapi import Request

_PORT: Final = re.compile(r":([0-9]{1,5})$")


def named(request: Request, name: str) -> str:
    """The name, with the port that the browser knows the desk by, where that is not the usual one."""
    port = _PORT.search(request.headers.get("host", ""))
    return name if port is None else f"{name}_{port[1]}"
