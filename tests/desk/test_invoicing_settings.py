"""How a merchant invoices: the seller, the numbers, the logo, templates."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import requests
from desk.world import PIXEL, TERMS, Belongings, Desk, World, made, refused
from PIL import Image

SELLER = {
    "name": "Ada & Söhne GmbH",
    "email": "billing@example.com",
    "website": "ada.example",
    "address": {"line1": "Ring 1", "city": "Wien", "country": "AT"},
    "tax_ids": ["ATU12345678"],
    "registration": "FN 12345 a, HG Wien",
    "bank": ["IBAN AT61 1904 3002 3457 3201", "BIC OPSKATWW"],
    "accent": "#0a7D4f",
}


def path(whose: Belongings, part: str) -> str:
    return f"/v1/merchants/{whose.merchant_id}/{part}"


def put(desk: Desk, whose: Belongings, part: str, body: Any) -> requests.Response:
    return desk.ask("PUT", path(whose, part), whose.key, json=body)


def upload(desk: Desk, whose: Belongings, content: bytes) -> requests.Response:
    return desk.ask("PUT", path(whose, "logo"), whose.key, data=content, headers={"Content-Type": "image/png"})


def issue(desk: Desk, whose: Belongings, **changed: Any) -> Any:
    return made(desk.post("/v1/invoices", {**TERMS, "finalize": True, **changed}, key=whose.key))


def test_a_seller_begins_as_the_merchants_name_and_is_set_as_a_whole(desk: Desk, world: World) -> None:
    ours = world.ours
    before = desk.get(path(ours, "seller"), key=ours.key).json()
    assert (before["name"], before["bank"], before["logo"]) == ("Ours", [], None)
    after = put(desk, ours, "seller", SELLER).json()
    assert after | SELLER | {"address": after["address"]} == after
    assert (after["address"]["country"], after["address"]["line2"]) == ("AT", None)
    assert desk.get(path(ours, "seller"), key=ours.key).json() == after
    assert put(desk, ours, "seller", after).json() == after, "what was read can be sent back"
    assert put(desk, ours, "seller", {"name": "Short"}).json()["email"] is None
    refused(put(desk, world.theirs, "seller", {}), 422, "invalid", "name")
    foreign = desk.ask("PUT", path(world.theirs, "seller"), ours.key, json=SELLER)
    refused(foreign, 404, "not_found")


NOT_PRINTABLE = [
    ("accent", "red", "invalid"),
    ("accent", "#12345;}", "invalid"),
    ("accent", "#123456\n", "accent_invalid"),
    ("email", "nobody", "email_invalid"),
    ("phone", "1\n2", "seller_invalid"),
    ("website", "x" * 256, "seller_invalid"),
    ("bank", ["x"] * 9, "bank_too_long"),
    ("bank", ["x\u2028y"], "seller_invalid"),
    ("address", {"city": "x" * 256}, "seller_invalid"),
    ("name", "a\0", "invalid"),
    ("colour", "#123456", "invalid"),
    ("logo", {"media_type": "image/png", "key": "x", "sha256": "", "width": 1, "height": 1}, "logo_separate"),
]


def test_a_seller_that_cannot_be_printed_is_refused(desk: Desk, world: World) -> None:
    for field, value, code in NOT_PRINTABLE:
        refused(put(desk, world.ours, "seller", {**SELLER, field: value}), 422, code)


def test_numbers_follow_the_settings_from_the_next_invoice_on(desk: Desk, world: World) -> None:
    ours = world.ours
    before = desk.get(path(ours, "invoicing"), key=ours.key).json()
    assert before["invoices"] == {"prefix": "INV-", "per": "merchant", "yearly": False, "digits": 4}
    assert issue(desk, ours)["number"] == "INV-0002"
    numbering = {"prefix": "R-", "yearly": True, "digits": 3}
    changed = put(desk, ours, "invoicing", {"invoices": numbering, "zone": "Asia/Tokyo"}).json()
    assert (changed["invoices"]["per"], changed["credit_notes"]["prefix"], changed["zone"]) == (
        "merchant",
        "CN-",
        "Asia/Tokyo",
    )
    assert [issue(desk, ours)["number"] for _ in range(2)] == ["R-2026-001", "R-2026-002"]
    put(desk, ours, "invoicing", {"invoices": {"prefix": "C-", "per": "customer"}})
    customers = ("acme", "acme", "other")
    assert [issue(desk, ours, customer=name)["number"] for name in customers] == [
        "C-acme-0001",
        "C-acme-0002",
        "C-other-0001",
    ]
    put(desk, ours, "invoicing", {})
    assert issue(desk, ours)["number"] == "INV-0003", "a series goes on where it was"


CANNOT_WORK = [
    ({"invoices": {"prefix": ""}}, "prefix_invalid"),
    ({"invoices": {"prefix": "CN-"}}, "prefixes_overlap"),
    ({"invoices": {"digits": 99}}, "digits_invalid"),
    ({"invoices": {"per": "week"}}, "invalid"),
    ({"zone": "Europe"}, "zone_unknown"),
    ({"zone": "../../etc/passwd"}, "zone_unknown"),
    ({"engine": "latex"}, "invalid"),
    ({"template": "tpl_none"}, "template_unknown"),
    ({"templete": None}, "invalid"),
]


def test_settings_that_cannot_work_are_refused(desk: Desk, world: World) -> None:
    for settings, code in CANNOT_WORK:
        refused(put(desk, world.ours, "invoicing", settings), 422, code)


def test_a_logo_is_kept_by_its_content_and_shown_on_pages(desk: Desk, world: World) -> None:
    ours = world.ours
    seller = upload(desk, ours, PIXEL).json()
    assert (seller["logo"]["width"], seller["logo"]["media_type"]) == (1, "image/png")
    assert seller["logo"]["sha256"] == hashlib.sha256(PIXEL).hexdigest()
    assert desk.env.objects.get(seller["logo"]["key"], seller["logo"]["sha256"]) == PIXEL
    assert put(desk, ours, "seller", {"name": "New"}).json()["logo"] == seller["logo"], "it is set on its own"
    invoice = issue(desk, ours)
    assert "data:image/png;base64," in desk.get(f"/v1/invoices/{invoice['id']}/page", key=ours.key).text
    assert desk.ask("DELETE", path(ours, "logo"), ours.key).status_code == 204
    assert desk.get(path(ours, "seller"), key=ours.key).json()["logo"] is None
    assert "data:image/png;base64," in desk.get(f"/v1/invoices/{invoice['id']}/page", key=ours.key).text


def test_a_logo_too_large_or_none_at_all_is_refused(desk: Desk, world: World) -> None:
    ours = world.ours
    refused(upload(desk, ours, PIXEL + bytes(5 * 1024 * 1024)), 413, "too_large", "512 KiB")
    wide = io.BytesIO()
    Image.new("1", (4001, 1)).save(wide, "PNG")
    refused(upload(desk, ours, wide.getvalue()), 422, "logo_too_large", "4000 pixels")
    for content in (b"", b"<svg/>", PIXEL[:30]):
        refused(upload(desk, ours, content), 422, "logo_invalid", "PNG or JPEG")
    assert desk.get(path(ours, "seller"), key=ours.key).json()["logo"] is None


def test_one_template_of_a_merchants_is_tried_at_a_time_and_two_altogether(desk: Desk, world: World) -> None:
    new = {"name": "Ours", "source": "<h1>{{ document.name }}</h1>"}
    with desk.env.template_trials.of(world.ours.merchant_id):
        answer = desk.post(path(world.ours, "templates"), new, key=world.ours.key)
        refused(answer, 503, "template_busy")
        assert answer.headers["Retry-After"]
        made(desk.post(path(world.theirs, "templates"), new, key=world.theirs.key))
        with desk.env.template_trials.of("mrc_another"):
            refused(desk.post(path(world.theirs, "templates"), new, key=world.theirs.key), 503, "template_busy")
    made(desk.post(path(world.ours, "templates"), new, key=world.ours.key))


def test_a_template_is_tried_kept_used_and_retired(desk: Desk, world: World) -> None:
    ours = world.ours
    source = "<h1>{{ document.name }}</h1>\n{% for line in document.lines %}{{ line.description }}{% endfor %}"
    template = made(desk.post(path(ours, "templates"), {"name": "Ours", "source": source}, key=ours.key))
    whole = desk.get(path(ours, f"templates/{template['id']}"), key=ours.key).json()
    assert whole == {**template, "source": source}
    assert put(desk, ours, "invoicing", {"template": template["id"]}).json()["template"] == template["id"]
    [document] = issue(desk, ours)["documents"]
    assert document["template"] == template["id"]
    one = path(ours, f"templates/{template['id']}")
    refused(desk.ask("DELETE", one, ours.key), 409, "template_in_use")
    put(desk, ours, "invoicing", {})
    assert desk.ask("DELETE", one, ours.key).status_code == 204
    refused(desk.ask("DELETE", one, ours.key), 404, "not_found")
    assert desk.get(one, key=ours.key).json()["retired_at"] is not None
    assert template["id"] not in desk.get(path(ours, "templates"), key=ours.key).text
    refused(put(desk, ours, "invoicing", {"template": template["id"]}), 422, "template_unknown", "in use")
    refused(put(desk, ours, "invoicing", {"template": world.theirs.ids["template_id"]}), 422, "template_unknown")
    foreign = path(ours, f"templates/{world.theirs.ids['template_id']}")
    refused(desk.get(foreign, key=ours.key), 404, "not_found")


BROKEN_TEMPLATES = [
    ("<p>\n{% for line in document.lines %}", "line 2"),
    ("<p>\n\n{{ document.nmae }}", "line 3"),
    ("{{ ''.__class__.__mro__ }}", "line 1"),
    ("{% include '/etc/passwd' %}", "line 1"),
    ("{% for a in range(90000) %}{% for b in range(90000) %}x{% endfor %}{% endfor %}", "more"),
    ("x" * (64 * 1024 + 1), "64 KiB"),
    ("a\0b", "NUL"),
]


def test_a_template_that_cannot_work_is_refused_with_the_line(desk: Desk, world: World) -> None:
    for source, word in BROKEN_TEMPLATES:
        answer = desk.post(path(world.ours, "templates"), {"name": "x", "source": source}, key=world.ours.key)
        assert answer.status_code == 422, answer.text
        assert word in answer.json()["error"]["message"]
