"""What the routes agree on: who asks, how ids and texts may look, how lists are paged, how bytes are shown."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, Generic, Literal, TypeVar

from fastapi import Depends, Query, Request
from fastapi.security import HTTPBearer
from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, TypeAdapter
from pydantic.json_schema import SkipJsonSchema

from billhook.runtime.env import Env
from billhook.store.database import Tx
from billhook.store.merchants import Caller, get_merchant
from services.desk.authentication import owner_of
from services.desk.refusals import not_found

T = TypeVar("T")

Id = Annotated[str, StringConstraints(pattern=r"^[a-z]{2,8}_[0-9a-f]{32}$")]

Text = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]+$")]
"""One line, without control characters: no NUL, which no text column of PostgreSQL holds."""

Secret = Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=r"^[!-~]+$")]

Optional = SkipJsonSchema[None]
"""May be left out of a query; a query has no way to say null."""

BEARER = Depends(HTTPBearer(auto_error=False, description="A merchant's key, or the operator's."))
"""Only for the document: `authentication.py` has looked at the key before any route runs."""


def _instant(value: Any) -> Any:
    """A strict field takes no text for a time, and JSON has nothing else."""
    return _TIMES.validate_python(value) if isinstance(value, str) else value


_TIMES: Final = TypeAdapter(AwareDatetime)

Time = Annotated[AwareDatetime, BeforeValidator(_instant)]


class Body(BaseModel):
    """What is sent is what is meant: `true` is not 1, "7" is no number, and a misspelt field is refused."""

    model_config = ConfigDict(extra="forbid", strict=True)


async def _env(request: Request) -> Env:
    env: Env = request.app.state.env
    return env


async def _caller(request: Request) -> Caller:
    caller: Caller = request.state.caller
    return caller


EnvIn = Annotated[Env, Depends(_env)]
CallerIn = Annotated[Caller, Depends(_caller)]


async def merchant_to_write_for(
    caller: CallerIn,
    merchant_id: Annotated[
        Id | Optional, Query(description="Whose it shall be. Needed with the operator's key, else left out.")
    ] = None,
) -> str:
    """The merchant a new thing belongs to."""
    return owner_of(caller, merchant_id)


OwnerIn = Annotated[str, Depends(merchant_to_write_for)]


def known_merchant(tx: Tx, merchant_id: str) -> str:
    if get_merchant(tx, merchant_id) is None:
        raise not_found("merchant")
    return merchant_id


class Listing(BaseModel):
    """The query of a list. What it does not know is refused: a misspelt filter must not answer with everything."""

    model_config = ConfigDict(extra="forbid")

    merchant_id: Id | Optional = Field(None, description="With the operator's key: only this merchant's.")
    limit: int = Field(50, ge=1, le=100, description="A page ends earlier where what is on it is large.")

    def visible_to(self, caller: Caller) -> str | None:
        """The merchant to list for; None is all of them, for the operator alone."""
        if caller.merchant_id is not None and self.merchant_id not in (None, caller.merchant_id):
            raise not_found("merchant")
        return caller.merchant_id or self.merchant_id


class NewestFirst(Listing):
    before: Id | Optional = Field(None, description="The `next` of the page before.")


class OldestFirst(Listing):
    after: Id | Optional = Field(None, description="The `next` of the page before.")


LARGEST_PAGE: Final = 2 * 1024 * 1024
"""Bytes of JSON after which a page ends with the object that it is at."""


class Page(BaseModel, Generic[T]):
    data: list[T]
    next: str | None = Field(description="The cursor of the next page; null on the last one.")


def page_of(found: Sequence[Any], limit: int, show: Callable[[Any], T], id_of: Callable[[Any], str]) -> Page[T]:
    """A page of at most `limit`, from a query that asked for one more: the one too many says that there is a next. It
    ends earlier where its objects are large."""
    data = first_that_fit(found[:limit], show)
    return Page(data=data, next=id_of(found[len(data) - 1]) if len(found) > len(data) else None)


def first_that_fit(found: Sequence[Any], show: Callable[[Any], T]) -> list[T]:
    """As many as an answer holds."""
    shown: list[T] = []
    size = 0
    for row in found:
        shown.append(show(row))
        size += _size(shown[-1])
        if size > LARGEST_PAGE:
            break
    return shown


def _size(shown: Any) -> int:
    return len(shown.__pydantic_serializer__.to_json(shown))


def row_id(row: Any) -> str:
    """The cursor of a row."""
    return str(row["id"])


class Bytes(BaseModel):
    """Bytes as they are stored: as text where they are text."""

    encoding: Literal["utf-8", "base64"]
    content: str


def bytes_shown(content: bytes) -> Bytes:
    try:
        return Bytes(encoding="utf-8", content=content.decode())
    except UnicodeDecodeError:
        return Bytes(encoding="base64", content=base64.b64encode(content).decode())
