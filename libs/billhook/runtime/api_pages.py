"""The page that shows a server's API to be read and tried: from this process alone, with nothing of the internet."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

_ASSETS: Final = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}
"""Of the package `fastapi-swagger`, which brings them along."""

_START: Final = """\
SwaggerUIBundle({url: "openapi.json", dom_id: "#api", deepLinking: true, persistAuthorization: false, filter: true,
  presets: [SwaggerUIBundle.presets.apis, SwaggerUIBundle.SwaggerUIStandalonePreset], layout: "BaseLayout"})
"""

_PAGE: Final = """\
<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><link rel="icon" href="data:,"><link rel="stylesheet" href="docs/swagger-ui.css"></head>
<body><div id="api"></div><script src="docs/swagger-ui-bundle.js"></script><script src="docs/start.js"></script></body>
</html>
"""

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Nothing runs here that did not come from here. (The page sets styles on its elements as it goes.)"""


@cache
def _content(name: str) -> bytes:
    """Once for all who wait for it."""
    return (files("fastapi_swagger") / "resources" / name).read_bytes()


def api_page(title: str) -> list[BaseRoute]:
    """The routes of `/docs` and what it loads."""
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    headers = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}

    def page(request: Request) -> Response:
        return Response(_PAGE.format(title=title), media_type="text/html", headers=headers)

    def start(request: Request) -> Response:
        return Response(_START, media_type="text/javascript", headers=headers)

    def asset(request: Request) -> Response:
        name = request.url.path.rpartition("/")[2]
        return Response(_content(name), media_type=_ASSETS[name], headers={**headers, "Cache-Control": "max-age=86400"})

    served = {"/docs": page, "/docs/start.js": start, **{f"/docs/{name}": asset for name in _ASSETS}}
    return [Route(path, answer, include_in_schema=False) for path, answer in served.items()]
