"""What a number looks like, and that no two documents can come to the same one by accident."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billhook.errors import Refused
from billhook.rules.invoicing_settings import InvoicingSettings, checked
from billhook.rules.numbering import Numbering, number_text, series_of

QUICK = settings(max_examples=60, deadline=None)
SUMMER = datetime(2026, 7, 1, 12, tzinfo=UTC)
NEW_YEARS_EVE = datetime(2026, 12, 31, 23, 30, tzinfo=UTC)

customers = st.none() | st.text(min_size=1, max_size=60) | st.sampled_from(["2026", "2027", "acme", "acme-2026", "A_b"])
numberings = st.builds(Numbering, per=st.sampled_from(["merchant", "customer"]), yearly=st.booleans())


@pytest.mark.parametrize(
    ("numbering", "customer", "number"),
    [
        (Numbering(), "cus_A1", "INV-0007"),
        (Numbering(digits=1), None, "INV-7"),
        (Numbering(prefix="RE/", yearly=True), "cus_A1", "RE/2026-0007"),
        (Numbering(per="customer"), "cus_A1", "INV-cus_A1-0007"),
        (Numbering(per="customer", yearly=True), "cus_A1", "INV-cus_A1-2026-0007"),
        (Numbering(per="customer"), None, "INV-0007"),
        (Numbering(per="customer"), "Ada & Söhne", "INV-AdaShne.d44fbb0b3728-0007"),
        (Numbering(per="customer"), "株式会社", "INV-customer.e6843c6eb529-0007"),
    ],
)
def test_known_numbers(numbering: Numbering, customer: str | None, number: str) -> None:
    assert number_text(series_of(numbering, customer, SUMMER, "UTC"), 7, numbering.digits) == number


def test_numbers_grow_beyond_their_digits() -> None:
    assert [number_text("INV-", sequence, 4) for sequence in (1, 9999, 10000, 123456)] == [
        *("INV-0001", "INV-9999", "INV-10000", "INV-123456")
    ]


def test_a_year_begins_when_it_does_where_the_merchant_is() -> None:
    yearly = Numbering(yearly=True)
    assert series_of(yearly, None, NEW_YEARS_EVE, "UTC") == "INV-2026-"
    assert series_of(yearly, None, NEW_YEARS_EVE, "Europe/Berlin") == "INV-2027-"
    assert series_of(yearly, None, NEW_YEARS_EVE, "America/New_York") == "INV-2026-"


@given(st.lists(customers, min_size=2, max_size=6, unique=True))
@QUICK
def test_two_customers_never_share_a_series(names: list[str | None]) -> None:
    for yearly in (False, True):
        numbering = Numbering(per="customer", yearly=yearly)
        assert len({series_of(numbering, name, SUMMER, "UTC") for name in names}) == len(names)


@given(st.lists(customers, max_size=6, unique=True))
@QUICK
def test_not_even_when_the_merchant_numbers_otherwise_from_now_on(names: list[str | None]) -> None:
    """A series stands for one customer (or for none) and one year (or for none), whatever the settings were."""
    meanings: dict[str, set[object]] = {}
    for per, yearly, name in itertools.product(("merchant", "customer"), (False, True), names):
        numbering = Numbering(per="customer" if per == "customer" else "merchant", yearly=yearly)
        meant = (name if per == "customer" else None, yearly)
        meanings.setdefault(series_of(numbering, name, SUMMER, "UTC"), set()).add(meant)
    assert all(len(meant) == 1 for meant in meanings.values())


@given(numberings, customers, st.sampled_from(["INV-", "R", "rechnung/2026/"]), st.integers(1, 10**6))
@QUICK
def test_a_number_says_which_series_it_is_of_and_stays_short(
    numbering: Numbering, customer: str | None, prefix: str, sequence: int
) -> None:
    series = series_of(msgspec.structs.replace(numbering, prefix=prefix), customer, SUMMER, "UTC")
    assert len(series) <= 64
    assert number_text(series, sequence, 4).rstrip("0123456789") == series


@given(numberings, numberings, customers, customers)
@QUICK
def test_invoices_and_credit_notes_never_share_a_series(
    invoices: Numbering, credit_notes: Numbering, one: str | None, other: str | None
) -> None:
    notes = msgspec.structs.replace(credit_notes, prefix="CN-")
    checked(InvoicingSettings(invoices=invoices, credit_notes=notes))
    assert series_of(invoices, one, SUMMER, "UTC") != series_of(notes, other, SUMMER, "UTC")


def test_the_settings_that_come_with_billhook_pass() -> None:
    assert checked(InvoicingSettings()) == InvoicingSettings()


@pytest.mark.parametrize(
    ("settings", "code", "says"),
    [
        ({"invoices": Numbering(prefix="")}, "prefix_invalid", "invoices.prefix"),
        ({"invoices": Numbering(prefix="INV-2")}, "prefix_invalid", "must not end in a digit"),
        ({"credit_notes": Numbering(prefix="<b>")}, "prefix_invalid", "credit_notes.prefix"),
        ({"credit_notes": Numbering(prefix="CN-\n")}, "prefix_invalid", "credit_notes.prefix"),
        ({"credit_notes": Numbering(prefix="C" * 21)}, "prefix_invalid", "1 to 20"),
        ({"invoices": Numbering(digits=0)}, "digits_invalid", "invoices.digits"),
        ({"credit_notes": Numbering(prefix="INV-")}, "prefixes_overlap", "share a series"),
        ({"credit_notes": Numbering(prefix="inv-cn-")}, "prefixes_overlap", "begin with the other"),
        ({"invoices": Numbering(prefix="C")}, "prefixes_overlap", "begin with the other"),
        ({"zone": "Europe/Berlino"}, "zone_unknown", "Europe/Berlin"),
        ({"zone": "Europe"}, "zone_unknown", "IANA"),
        ({"zone": "../../etc/passwd"}, "zone_unknown", "IANA"),
        ({"zone": ""}, "zone_unknown", "IANA"),
        ({"engine": "chromium"}, "engine_unknown", "wkhtmltopdf"),
        ({"paper": "a5"}, "paper_unknown", "us-letter"),
        ({"e_invoice_profile": "peppol"}, "e_invoice_profile_unknown", "xrechnung"),
        ({"template": "invoice.html"}, "template_unknown", "tpl_"),
    ],
)
def test_what_cannot_work_is_refused_with_the_field(settings: dict[str, object], code: str, says: str) -> None:
    with pytest.raises(Refused) as refused:
        checked(msgspec.structs.replace(InvoicingSettings(), **settings))
    assert refused.value.code == code
    assert says in str(refused.value)


def test_settings_survive_being_stored() -> None:
    settings = InvoicingSettings(invoices=Numbering(per="customer", yearly=True), zone="Asia/Tokyo", engine="typst")
    assert msgspec.json.decode(msgspec.json.encode(settings), type=InvoicingSettings) == settings
