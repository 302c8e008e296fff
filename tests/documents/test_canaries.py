"""Canaries: whatever people write into any field, no file is read and no request leaves, and their words are shown.

The fields are found by walking the snapshot's types, so one that is added tomorrow is poisoned too.
"""

from __future__ import annotations

import contextlib
import io
import re
import types
import typing
import urllib.request
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pypdf
import pytest
from documents.canary import SECRET, canary
from documents.test_page import Reading, squeezed

from billhook.documents.page import document_html
from billhook.documents.templating import own_html
from billhook.documents.view import shown
from billhook.documents.wkhtmltopdf import RenderError, Wkhtmltopdf
from billhook.rules.document import Snapshot
from billhook_testing import samples

__all__ = ["canary"]


DECIDED = {"kind", "status", "locale", "zone", "currency", "template", "category", "tax_category", "unit"}
"""Words that billhook chooses or checks against a list, and no text of anybody's."""
NOT_SHOWN = {"accent", "pay_url", "electronic_address"}
"""Bytes of a picture, addresses for machines and a colour: what they may be is tested where they are checked."""


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret.txt"
    path.write_text(SECRET)
    return path


def poisons(url: str, secret: Path) -> list[str]:
    """Every way known to make an engine or a browser do something. Each is short enough for a name."""
    file = secret.as_uri()
    return [
        f"<script>new Image().src='{url}/js'</script>",
        f"<script src='{url}/x.js'></script>",
        "<meta name=\"pdfkit-enable-local-file-access\" content=\"\"><meta name='pdfkit-proxy' content='None'>",
        f"<iframe src={file}></iframe>",
        f"<img src={url}/img onerror=alert(1)>",
        f"</style><style>body{{background:url({url}/css)}}</style>",
        f"<link rel=stylesheet href={url}/link>",
        f"<object data={file} type=text/plain></object>",
        f"<meta http-equiv=refresh content='0;url={url}/refresh'>",
        f"\"><svg><image xlink:href='{url}/svg'/></svg>",
        f"</td></table><embed src={file}>",
        "{{ 7*7 }}{% include 'x' %}{# no #}",
        "{page} {0} %s ${x}",
        "مرحبا <b onmouseover=alert(1)>بالعالم</b>،",
        f'#image("{secret}") #read("{secret}") $x$ \\ *a* _b_ @c',
    ]


class Sprayer:
    """Builds a value of a type with poison in every text of it, and notes under which path what was put."""

    def __init__(self, poison: str) -> None:
        self.poison = poison
        self.put: dict[str, str] = {}

    def value(self, kind: Any, path: str, name: str) -> Any:
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if origin is typing.Annotated:
            return self.value(arguments[0], path, name)
        if origin in (typing.Union, types.UnionType):
            return self.value(next(a for a in arguments if a is not type(None)), path, name)
        if origin is typing.Literal:
            return arguments[0]
        if origin is tuple:
            return (self.value(arguments[0], f"{path}[]", name),)
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            hints = typing.get_type_hints(kind, include_extras=True)
            return kind(**{field: self.value(hint, f"{path}.{field}", field) for field, hint in hints.items()})
        if kind is str:
            self.put[path] = f"{self.poison} {path}"
            return self.put[path]
        return {int: 100, bool: False, datetime: samples.ISSUED}[kind]


def sprayed(kind: str, poison: str) -> tuple[Snapshot, dict[str, str]]:
    sprayer = Sprayer(poison)
    snapshot: Snapshot = sprayer.value(Snapshot, "", "")
    seller = msgspec.structs.replace(snapshot.seller, logo=None)
    snapshot = msgspec.structs.replace(
        snapshot,
        kind=kind,
        status={"receipt": "paid", "void": "void"}.get(kind, "open"),
        locale="en",
        currency="eur",
        zone="Europe/Berlin",
        seller=seller,
        pay_url="https://pay.example.com/" + poison,
    )
    return snapshot, sprayer.put


KINDS = ("invoice", "receipt", "void", "credit_note")


def must_show(put: dict[str, str], kind: str) -> list[str]:
    """The paths whose text this kind of document shows; the others are shown by another kind."""
    only_here = {
        ".seller.bank[]": "invoice",
        ".corrects": "credit_note",
        ".refund": "credit_note",
        ".reason": "credit_note",
        ".payment_reference": "receipt",
        ".payment_method": "receipt",
    }
    paths = []
    for path in put:
        name = path.rpartition(".")[2]
        if name in DECIDED | NOT_SHOWN or ".logo." in path:
            continue
        if only_here.get(path, kind) == kind:
            paths.append(path)
    return paths


def test_every_text_of_a_snapshot_is_poisoned() -> None:
    _, put = sprayed("invoice", "x")
    assert {".number", ".seller.name", ".buyer.address.line1", ".lines[].description", ".taxes[].reason"} <= set(put)
    assert {".seller.tax_ids[]", ".seller.bank[]", ".allowances[].label", ".footer", ".lines[].quantity"} <= set(put)


def test_markup_in_any_field_is_text_in_the_page(canary: tuple[str, list[str]], secret: Path) -> None:
    clean = Reading(document_html(shown(sprayed("invoice", "x")[0])))
    for kind in KINDS:
        for poison in poisons(canary[0], secret):
            snapshot, put = sprayed(kind, poison)
            page = Reading(document_html(shown(snapshot)))
            assert set(page.tags) <= set(clean.tags) | {"bdi", "span"}
            assert not {name for name, _ in page.attributes if name.startswith("on") or name == "src"}
            assert page.tags.count("meta") == 3
            missing = [path for path in must_show(put, kind) if squeezed(put[path]) not in page.text]
            assert (kind, poison, missing) == (kind, poison, [])


def test_markup_in_any_field_makes_the_engine_load_nothing(
    wkhtmltopdf: Path, canary: tuple[str, list[str]], secret: Path
) -> None:
    url, calls = canary
    kinds = ("invoice", "receipt", "credit_note")  # between them they show every field
    # One to a page: all of them in every field of one make the engine lay it out for half a minute.
    written = [(kind, poison) for kind in kinds for poison in poisons(url, secret)]
    pages = [document_html(shown(sprayed(kind, poison)[0])) for kind, poison in written]
    for (kind, poison), pdf in zip(written, drawn_by(wkhtmltopdf, pages), strict=True):
        text = squeezed(text_of(pdf))
        assert SECRET not in text
        # The engine's own order of Arabic letters is nobody's to rely on.
        assert squeezed(poison) in text or not poison.isascii(), (kind, poison)
    assert calls == []


def test_a_merchants_own_markup_reads_no_file_and_calls_nobody(
    wkhtmltopdf: Path, canary: tuple[str, list[str]], secret: Path
) -> None:
    url, calls = canary
    document = shown(samples.invoice(samples.terms(1)))
    markup = [poison for poison in poisons(url, secret) if "{%" not in poison]
    markup.append(f"<iframe src='{secret.as_uri()}' width=500 height=300></iframe><iframe src='0.html'></iframe>")
    sources = [f"<html><body><p>{{{{ document.name }}}} {poison}</p></body></html>" for poison in markup]
    pages = [page for page in own_html([(source, document, None) for source in sources]) if isinstance(page, str)]
    assert len(pages) == len(sources)
    assert any("<script>" in page for page in pages)  # a merchant's markup is markup
    assert all(SECRET not in text_of(pdf) for pdf in drawn_by(wkhtmltopdf, pages))
    assert calls == []


def test_the_canaries_sing_where_they_may(canary: tuple[str, list[str]]) -> None:
    url, calls = canary
    with urllib.request.urlopen(f"{url}/hello") as answer:
        assert answer.read().decode() == SECRET
    assert calls == ["/hello"]


def drawn_by(wkhtmltopdf: Path, pages: list[str]) -> list[bytes | RenderError]:
    with contextlib.closing(Wkhtmltopdf(wkhtmltopdf)) as engine:
        return engine.render(pages)


def text_of(pdf: bytes | RenderError) -> str:
    assert isinstance(pdf, bytes), pdf
    return re.sub(r"\s+", " ", " ".join(page.extract_text() for page in pypdf.PdfReader(io.BytesIO(pdf)).pages))
