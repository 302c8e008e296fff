"""Documents to look at: `make samples` writes them into var/samples, drawn by each engine.

Each is made as a real one is, from terms that are added up, so that what is seen is what customers get.
"""

from __future__ import annotations

import base64
import contextlib
import io
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Final

import msgspec
from PIL import Image, ImageDraw

from billhook.documents.engines import Engines
from billhook.documents.typst import Picture, RenderRequest
from billhook.documents.view import shown
from billhook.documents.wkhtmltopdf import RenderError
from billhook.documents.words import languages
from billhook.rules.book.customer import Address
from billhook.rules.book.invoice import CustomField
from billhook.rules.document import Allowance, Line, Seller, Snapshot, TaxTotal
from billhook.rules.terms import Discount, LineTerms, Party, ShipTo, TaxRate, Terms
from billhook.rules.totals import totals

ISSUED: Final = datetime(2026, 3, 1, 23, 57, 12, 345_678, tzinfo=timezone(timedelta(hours=1)))
"""Awkward on purpose, as the manual clock is."""
LINES: Final = (1, 30, 200)
LOCALES: Final = ("en", "de", "ja", "ar")
CURRENCIES: Final = ("eur", "jpy", "kwd")

PAY_URL: Final = (
    "https://pay.example.com/i/acct_1ABCDEFGHIJKLMNO/live_YWNjdF8xQUJDREVGR0hJSktMTU5PLF9RYWJjZGVmZ2hpams?s=ap"
)

_SELLERS: Final = {
    "en": Seller(
        name="Northwind Cloud Ltd",
        email="billing@northwind.example",
        phone="+44 20 7946 0018",
        website="northwind.example",
        address=Address(line1="12 Finsbury Square", city="London", postal_code="EC2A 1AB", country="GB"),
        tax_ids=("GB123456789",),
        registration="Registered in England and Wales, company no. 01234567",
        bank=("IBAN GB33 BUKB 2020 1555 5555 55", "BIC BUKBGB22"),
        accent="#0f6e6e",
    ),
    "de": Seller(
        name="Nordlicht Software GmbH",
        email="rechnung@nordlicht.example",
        phone="+49 30 1234567",
        website="nordlicht.example",
        address=Address(line1="Torstraße 140", city="Berlin", postal_code="10119", country="DE"),
        tax_ids=("DE123456789",),
        registration="HRB 12345 B, Amtsgericht Charlottenburg · Geschäftsführerin: Dr. Jana Weiß",
        bank=("IBAN DE89 3704 0044 0532 0130 00", "BIC COBADEFFXXX"),
        accent="#8a1c4a",
    ),
    "ja": Seller(
        name="株式会社ノースウィンド",
        email="seikyu@northwind.example",
        phone="03-1234-5678",
        address=Address(
            line1="丸の内1-9-1",
            line2="丸の内ビル12階",
            city="千代田区",
            state="東京都",
            postal_code="100-0005",
            country="JP",
        ),
        tax_ids=("T1234567890123",),
        bank=("みずほ銀行 丸の内支店 普通 1234567", "カ）ノースウインド"),
        accent="#1f4e9c",
    ),
    "ar": Seller(
        name="شركة الأفق للتقنية",
        email="billing@alufuq.example",
        phone="+965 2222 1234",
        website="alufuq.example",
        address=Address(line1="شارع أحمد الجابر، برج الراية، الطابق 12", city="مدينة الكويت", country="KW"),
        tax_ids=("300012345600003",),
        registration="السجل التجاري 123456",
        bank=("IBAN KW81 CBKU 0000 0000 0000 1234 5601 01",),
        accent="#7a4b00",
    ),
}
_BUYERS: Final = {
    "en": Party(
        name="Harbor & Sons Logistics, Inc.",
        email="ap@harbor.example",
        address=Address(line1="500 Howard Street", line2="Suite 4", city="San Francisco", state="CA", country="US"),
        tax_ids=("US98-7654321",),
    ),
    "de": Party(
        name="Müller & Söhne Maschinenbau KG",
        email="buchhaltung@mueller.example",
        address=Address(line1="Hauptstraße 12", city="Köln", postal_code="50667", country="DE"),
        tax_ids=("DE987654321",),
    ),
    "ja": Party(
        name="さくら物流株式会社 御中",
        email="keiri@sakura.example",
        address=Address(line1="梅田3-1-3", city="大阪市北区", state="大阪府", postal_code="530-0001", country="JP"),
    ),
    "ar": Party(
        name="مؤسسة النخيل للتجارة",
        email="accounts@nakheel.example",
        address=Address(line1="طريق الملك فهد 45", city="الرياض", postal_code="12345", country="SA"),
        tax_ids=("310123456700003",),
    ),
}
_ITEMS: Final = {
    "en": ("Team plan", "Additional seats", "API requests, metered", "Priority support", "Data export, gigabytes"),
    "de": ("Team-Tarif", "Zusätzliche Plätze", "API-Aufrufe, nach Verbrauch", "Vorrang-Support", "Datenexport"),
    "ja": ("チームプラン", "追加シート", "API リクエスト（従量）", "優先サポート", "データ転送"),
    "ar": ("خطة الفريق", "مقاعد إضافية", "طلبات API حسب الاستخدام", "دعم ذو أولوية", "تصدير البيانات"),
}
_TAXES: Final = {"en": ("VAT", "20"), "de": ("USt.", "19"), "ja": ("消費税", "10"), "ar": ("ضريبة القيمة المضافة", "5")}
_FOOTERS: Final = {
    "en": "Thank you for your business.",
    "de": "Vielen Dank für Ihren Auftrag.",
    "ja": "平素より格別のお引き立てを賜り、誠にありがとうございます。",
    "ar": "شكرًا لتعاملكم معنا.",
}


def terms(lines: int, locale: str = "en", currency: str = "eur", **fields: object) -> Terms:
    """Terms with so many lines, of all sorts."""
    language = locale.partition("-")[0]
    name, percent = _TAXES[language]
    made = Terms(
        currency=currency,
        buyer=_BUYERS[language],
        lines=tuple(_lines(lines, _ITEMS[language], TaxRate(name=name, percent=percent))),
        locale=locale,
        footer=_FOOTERS[language],
        pay_url=PAY_URL,
    )
    return msgspec.structs.replace(made, **fields)


def _lines(count: int, items: Sequence[str], tax: TaxRate) -> Iterator[LineTerms]:
    until = ISSUED + timedelta(days=31)
    for number in range(count):
        item = items[number % len(items)] if count <= len(items) else f"{items[number % len(items)]} {number + 1}"
        line = LineTerms(description=item, unit_amount=str(4900 + 137 * number), tax=tax)
        match number % 5:
            case 0:
                line = msgspec.structs.replace(line, period_start=ISSUED, period_end=until)
            case 1:
                line = msgspec.structs.replace(line, quantity="12", discounts=(Discount(percent="10"),))
            case 2:
                line = msgspec.structs.replace(line, quantity="123456", unit_amount="0.05")
            case 3:
                line = msgspec.structs.replace(line, quantity="2.5", unit="HUR")
            case _:
                line = msgspec.structs.replace(line, period_start=ISSUED, period_end=until, proration=True)
        yield line


def invoice(made: Terms, **fields: object) -> Snapshot:
    """The invoice that terms come to, open; fields can be given."""
    locale = made.locale or "en"
    sums = totals(made)
    snapshot = Snapshot(
        kind="invoice",
        locale=locale,
        currency=made.currency,
        number="INV-2026-0042",
        seller=_SELLERS[locale.partition("-")[0]],
        buyer=made.buyer,
        issued_at=ISSUED,
        due_at=ISSUED + timedelta(days=made.due_days),
        lines=sums.lines,
        tax_inclusive=made.tax_inclusive,
        allowances=sums.allowances,
        taxes=sums.taxes,
        subtotal=sums.subtotal,
        discount=sums.discount,
        tax=sums.tax,
        total=sums.total,
        amount_due=sums.total,
        amount_remaining=sums.total,
        description=made.description,
        footer=made.footer,
        pay_url=made.pay_url,
    )
    return msgspec.structs.replace(snapshot, **fields)


def receipt(made: Terms, **fields: object) -> Snapshot:
    open_one = invoice(made)
    paid = {"amount_paid": open_one.total, "amount_remaining": 0, "paid_at": ISSUED + timedelta(days=2)}
    return msgspec.structs.replace(open_one, **{"kind": "receipt", "status": "paid", **paid, **fields})


def void(made: Terms) -> Snapshot:
    gone = {"amount_remaining": 0, "voided_at": ISSUED + timedelta(days=1)}
    return invoice(made, kind="void", status="void", **gone)


def credit_note(made: Terms, **fields: object) -> Snapshot:
    told = {"corrects": "INV-2026-0042", "corrects_issued_at": ISSUED - timedelta(days=20), "reason": "order_change"}
    zero = {"amount_due": 0, "amount_remaining": 0, "due_at": None, "pay_url": None}
    return invoice(made, **{"kind": "credit_note", "number": "CN-2026-0007", **told, **zero, **fields})


def samples() -> Iterator[tuple[str, Snapshot]]:
    """Every kind of document, by a name for its file."""
    for count in LINES:
        for locale in LOCALES:
            for currency in CURRENCIES:
                yield f"invoice-{count}-{locale}-{currency}", invoice(terms(count, locale, currency))
    for locale in LOCALES:
        yield f"receipt-{locale}", receipt(terms(3, locale))
        yield f"void-{locale}", void(terms(3, locale))
        yield f"credit-note-{locale}", credit_note(terms(2, locale))
    yield "credit-note-refunded", credit_note(terms(2), refund="re_3PqrStUvWxYz")
    yield "receipt-part", receipt(terms(3), amount_paid=5000, amount_remaining=1234)
    yield "reverse-charge", invoice(_taxed(terms(3, "de"), TaxRate(name="USt.", category="reverse_charge")))
    exempt = TaxRate(category="exempt", reason="Exempt under section 4 no. 21 of the VAT act: education.")
    yield "exempt", invoice(_taxed(terms(3), exempt))
    yield "several-rates", invoice(_several_rates(terms(6, "de")))
    yield "tax-inclusive", invoice(msgspec.structs.replace(_several_rates(terms(6, "de")), tax_inclusive=True))
    yield "long-texts", invoice(_long_texts(terms(4)))
    plain = Seller(name="Plain & Simple", address=Address(country="US"), accent="#ffe14d")
    yield "light-accent", invoice(terms(3), seller=plain)
    yield "mirrored", mirrored()
    for locale in LOCALES:
        yield f"test-{locale}", invoice(terms(30, locale), livemode=False)
    yield "test-receipt", receipt(terms(3), livemode=False)
    yield "test-credit-note", credit_note(terms(2), livemode=False)
    yield "letter", invoice(terms(30), locale="en-US")
    yield "billions", invoice(_billions(terms(3)), buyer=_long_name(_BUYERS["en"]))
    yield "swedish", invoice(msgspec.structs.replace(terms(3), locale="en"), locale="sv-SE")


def mirrored() -> Snapshot:
    """As a provider tells it: no rates, one discount, a balance, and only the first lines."""
    lines = tuple(
        Line(description=f"Service {number}", quantity="2", unit_amount="1000", amount=2000, discount=100, tax=361)
        for number in range(10)
    )
    return Snapshot(
        kind="invoice",
        currency="usd",
        number="ACME-0042",
        seller=_SELLERS["en"],
        buyer=Party(name="someone@example.com", email="someone@example.com"),
        ship_to=ShipTo(
            name="Harbor & Sons, warehouse 3",
            address=Address(line1="1 Pier Road", city="Oakland", state="CA", postal_code="94607", country="US"),
        ),
        issued_at=ISSUED,
        custom_fields=(
            CustomField(name="Purchase order", value="PO-2026-0815"),
            CustomField(name="Project", value="Warehouse north, second stage of the extension"),
        ),
        lines=lines,
        lines_complete=False,
        allowances=(Allowance(amount=1000),),
        taxes=(TaxTotal(tax=3610),),
        subtotal=20000,
        discount=1000,
        tax=3610,
        total=22610,
        amount_due=20000,
        amount_remaining=20000,
        pay_url="https://invoice.example.com/i/1",
    )


def picture() -> Picture:
    """A mark, as a merchant's logo."""
    mark = Image.new("RGBA", (560, 180))
    draw = ImageDraw.Draw(mark)
    for step, colour in enumerate(("#0f6e6e", "#3a9c8f", "#8ccfc0")):
        draw.polygon([(180 * step, 175), (90 + 180 * step, 5), (180 + 180 * step, 175)], fill=colour)
    content = io.BytesIO()
    mark.save(content, "PNG")
    return Picture("image/png", content.getvalue(), *mark.size)


def logo() -> str:
    """The same, as a `data:` URI."""
    return f"data:image/png;base64,{base64.b64encode(picture().content).decode()}"


def _taxed(made: Terms, tax: TaxRate) -> Terms:
    return msgspec.structs.replace(made, lines=tuple(msgspec.structs.replace(line, tax=tax) for line in made.lines))


def _several_rates(made: Terms) -> Terms:
    rates = (
        TaxRate(name="USt.", percent="19"),
        TaxRate(name="USt.", percent="7"),
        TaxRate(name="USt.", category="zero"),
    )
    lines = tuple(msgspec.structs.replace(line, tax=rates[place % len(rates)]) for place, line in enumerate(made.lines))
    discounts = (Discount(percent="12.5", label="Treuerabatt"), Discount(amount=500, label="Gutschein MÄRZ"))
    return msgspec.structs.replace(made, lines=lines, discounts=discounts)


def _billions(made: Terms) -> Terms:
    figures = [{"quantity": "1", "unit_amount": str(amount)} for amount in (123_456_789_012, 987_654_321_098, -5_000)]
    lines = [
        msgspec.structs.replace(line, discounts=(), **figure) for line, figure in zip(made.lines, figures, strict=True)
    ]
    return msgspec.structs.replace(made, lines=tuple(lines))


def _long_name(buyer: Party) -> Party:
    return msgspec.structs.replace(buyer, name="Bartholomew-Featherstonehaugh Worldwide Logistics Holdings 1")


def _long_texts(made: Terms) -> Terms:
    words = "A description that somebody wrote with much love for detail, and that goes on over several lines. "
    long = (words * 4, "Unbroken" * 24, words, "Short")
    lines = tuple(
        msgspec.structs.replace(line, description=text, quantity="1234567.25", unit_amount="98765.4321")
        for line, text in zip(made.lines, long, strict=True)
    )
    buyer = Party(name="The Honourable Company of " + "Very " * 12 + "Long Names", email="a" * 90 + "@example.com")
    return msgspec.structs.replace(
        made, lines=lines, buyer=buyer, description=(words * 5 + "\n\n") * 3, footer=words * 6
    )


def main(place: Path = Path("var/samples")) -> int:
    spoken = ((f"language-{name}", invoice(terms(30), locale=name)) for name in sorted(languages()))
    named = [*samples(), *spoken]
    mark = picture()
    # Every other one has a logo: the head of a document looks different without.
    requests = [
        RenderRequest(shown(snapshot), snapshot.dated or ISSUED, mark if number % 2 else None)
        for number, (_, snapshot) in enumerate(named)
    ]
    failed = 0
    for setting in ("wkhtmltopdf", "typst"):
        folder = place / setting
        folder.mkdir(parents=True, exist_ok=True)
        engines = Engines(setting)
        with contextlib.closing(engines):
            for number, pdf in engines.draw([engines.route(request) for request in requests]):
                name = named[number][0]
                if isinstance(pdf, RenderError):
                    failed += 1
                    sys.stderr.write(f"{setting}: {name}: {pdf.reason}\n")
                else:
                    (folder / f"{name}.pdf").write_bytes(pdf)
    sys.stdout.write(f"{2 * len(named) - failed} documents are in {place}.\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:2])))
