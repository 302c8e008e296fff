"""What the console's lists share: filters that come in the query, and pages by the id behind which the next begins."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlencode

from fastapi import Request

from services.desk.refusals import Refusal

PAGE: Final = 50
_ID: Final = re.compile(r"[a-z]{2,8}_[0-9a-f]{12,32}")
_CURSOR: Final = re.compile(r"[0-9]{1,20}\.[a-z]{2,8}_[0-9a-f]{32}")


@dataclass(frozen=True)
class Filters:
    """The query of a list, which may have been written by anybody."""

    given: Mapping[str, str]

    def text(self, name: str, longest: int = 255) -> str | None:
        value = self.given.get(name, "").strip()
        if len(value) > longest or not value.isprintable():
            raise Refusal(422, "invalid", f"{name}: one line of at most {longest} characters.")
        return value or None

    def one_of(self, name: str, allowed: Any) -> str | None:
        value = self.text(name)
        if value is not None and value not in allowed:
            raise Refusal(422, "invalid", f"{name}: one of {', '.join(allowed)}.")
        return value

    def id(self, name: str) -> str | None:
        value = self.text(name)
        if value is not None and not _ID.fullmatch(value):
            raise Refusal(422, "invalid", f"{name}: that is not an id billhook makes.")
        return value

    def cursor(self, name: str = "before") -> str | None:
        value = self.text(name)
        if value is not None and not _CURSOR.fullmatch(value):
            raise Refusal(422, "invalid", f"{name}: that is no place in this list.")
        return value

    def time(self, name: str) -> datetime | None:
        """As a browser's field gives it, without seconds or a zone: the script adds the reader's, else it is UTC."""
        value = self.text(name)
        if value is None:
            return None
        try:
            at = datetime.fromisoformat(value)
        except ValueError:
            raise Refusal(422, "invalid", f"{name}: a time such as 2026-11-01T09:30.") from None
        return at if at.tzinfo else at.replace(tzinfo=UTC)

    def behind(self, before: str | None) -> str | None:
        """The query of the next page; None where there is none."""
        if before is None:
            return None
        return urlencode({**{name: value for name, value in self.given.items() if value}, "before": before})

    def value(self, name: str) -> str:
        """As it was given, to be shown in the form again."""
        return self.given.get(name, "")


def filters_of(request: Request) -> Filters:
    return Filters(dict(request.query_params))


def is_more(request: Request) -> bool:
    """Whether only the next rows are wanted, to be put below the ones that are there."""
    return "hx-request" in request.headers and "before" in request.query_params
