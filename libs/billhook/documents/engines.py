"""The two PDF engines behind one renderer, and which of them draws a document.

Typst draws billhook's own look. wkhtmltopdf draws merchants' own templates, which are HTML, and everything where a
setting says so.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from billhook.documents.letters import Letters
from billhook.documents.page import document_html
from billhook.documents.templating import own_html
from billhook.documents.typst import Pdf, Picture, RenderRequest, TypstRenderer
from billhook.documents.view import Shown
from billhook.documents.watermark import watermarked
from billhook.documents.wkhtmltopdf import HtmlPage, RenderError, Wkhtmltopdf
from billhook.rules.engine import Engine

Drawn = bytes | RenderError


@dataclass(frozen=True)
class RoutedRequest:
    """A document to be drawn, and with what."""

    request: RenderRequest
    engine: Literal["wkhtmltopdf", "typst"]
    own: str | None = None
    """The source of the merchant's template."""


def choose(*, wish: Engine, setting: Engine, own: bool) -> Literal["wkhtmltopdf", "typst"]:
    """Which engine draws a document. The first of these decides: what its template needs, the operator's setting, the
    merchant's; otherwise it is Typst. A document for wkhtmltopdf waits while that is not installed."""
    if own:
        return "wkhtmltopdf"
    return next((said for said in (setting, wish) if said != "auto"), "typst")


class Engines:
    """Draws documents. Equal ones give equal bytes. May be used from several threads."""

    def __init__(
        self,
        setting: Engine = "auto",
        *,
        wkhtmltopdf: Wkhtmltopdf | None = None,
        typst: TypstRenderer | None = None,
    ) -> None:
        self._setting = setting
        self._wkhtmltopdf = wkhtmltopdf or Wkhtmltopdf()
        self._typst = typst or TypstRenderer()
        self._letters = Letters()

    def route(self, request: RenderRequest, *, wish: Engine = "auto", own: str | None = None) -> RoutedRequest:
        engine = choose(wish=wish, setting=self._setting, own=own is not None)
        return RoutedRequest(request, engine, own)

    def name_of(self, routed: RoutedRequest) -> str:
        """The engine's name and version, which are part of a document's content address."""
        return self._typst.name if routed.engine == "typst" else self._wkhtmltopdf.name

    def draw(self, routed: Sequence[RoutedRequest]) -> Iterator[tuple[int, Drawn]]:
        """Yields the index of each document in `routed`, with its PDF or the reason there is none, as soon as it is
        drawn; the engine goes on with the next meanwhile. No document can spoil another."""
        # By template, for pages of two are not drawn by one process.
        html = sorted(
            (place for place, one in enumerate(routed) if one.engine == "wkhtmltopdf"),
            key=lambda place: routed[place].own or "",
        )
        typst = [place for place, one in enumerate(routed) if one.engine == "typst"]
        if html:  # looking for the engine and making a place for it costs 4 ms a batch
            yield from self._draw_html(routed, html)
        yield from zip(typst, self._typst.draw(routed[place].request for place in typst), strict=True)

    def _draw_html(self, routed: Sequence[RoutedRequest], places: Sequence[int]) -> Iterator[tuple[int, Drawn]]:
        legible = {place: self._letters.legible(routed[place].request.shown) for place in places}
        shown = {place: document for place, (document, _) in legible.items()}
        own = _own_pages(routed, shown)
        failed = {place: page for place, page in own.items() if isinstance(page, RenderError)}
        yield from failed.items()
        good = [place for place in places if place not in failed]

        def pages() -> Iterator[HtmlPage]:
            for place in good:
                request = routed[place].request
                page = own.get(place)
                html = page if isinstance(page, str) else document_html(shown[place], logo=_data_uri(request.logo))
                html = watermarked(html, request.shown.test)
                yield HtmlPage(html, request.dated, request.shown.paper, routed[place].own)

        for place, drawn in zip(good, self._wkhtmltopdf.draw(pages()), strict=True):
            unshown = legible[place][1]
            yield place, Pdf(drawn, unshown) if unshown and isinstance(drawn, bytes) else drawn

    def close(self) -> None:
        self._wkhtmltopdf.close()
        self._typst.close()


def _own_pages(routed: Sequence[RoutedRequest], shown: Mapping[int, Shown]) -> dict[int, str | RenderError]:
    """The pages of merchants' own templates. All at once, because each call starts a process."""
    asked = [(place, own) for place in shown if (own := routed[place].own) is not None]
    requests = [(own, shown[place], _data_uri(routed[place].request.logo)) for place, own in asked]
    made = own_html(requests) if requests else []
    return {place: page for (place, _), page in zip(asked, made, strict=True)}


def _data_uri(picture: Picture | None) -> str | None:
    if picture is None:
        return None
    return f"data:{picture.media_type};base64,{base64.b64encode(picture.content).decode()}"
