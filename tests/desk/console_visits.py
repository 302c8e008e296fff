"""Somebody at the console: signed in, with the forms of its pages."""

from __future__ import annotations

import re
from dataclasses import dataclass
from html import unescape
from typing import Any

import requests
from desk.world import OPERATOR, Desk

FORM = re.compile(r'<form[^>]*method="post"[^>]*action="([^"]*)"')
LINK = re.compile(r'(?:href|src|hx-get)="(/[^"#]*)"')


@dataclass
class Visitor:
    """A browser without a screen: it keeps cookies and follows where it is sent."""

    desk: Desk
    session: requests.Session

    def get(self, path: str, **query: Any) -> requests.Response:
        return self.session.get(self.desk.address + path, params=query, timeout=30)

    def post(self, path: str, csrf: str | None = None, **fields: Any) -> requests.Response:
        """A form of ours; without `csrf` with the token that the pages have."""
        token = self.csrf if csrf is None else csrf
        return self.session.post(self.desk.address + path, data={"csrf": token, **fields}, timeout=30)

    @property
    def csrf(self) -> str:
        found = re.search(r'name="csrf" value="([^"]+)"', self.get("/audit").text)
        return found[1] if found else ""

    def links(self, html: str) -> set[str]:
        return {unescape(link) for link in LINK.findall(html)}


def visitor(desk: Desk) -> Visitor:
    return Visitor(desk, requests.Session())


def signed_in(desk: Desk) -> Visitor:
    """By the operator's key."""
    somebody = visitor(desk)
    answer = somebody.session.post(desk.address + "/sign-in/key", data={"key": OPERATOR}, timeout=30)
    assert answer.status_code == 200, answer.text
    assert "Sign out" in answer.text
    return somebody
