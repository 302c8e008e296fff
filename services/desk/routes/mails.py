"""Mails: what people were sent, and what never reached them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from billhook.store import mails
from services.desk.dependencies import CallerIn, EnvIn, NewestFirst, Optional, Page, page_of, row_id

router = APIRouter(prefix="/v1/mails", tags=["mails"])


class MailQuery(NewestFirst):
    state: Literal["due", "sent", "dead"] | Optional = None


class AttachmentShown(BaseModel):
    name: str
    media_type: str
    sha256: str


class MailShown(BaseModel):
    id: str
    merchant_id: str
    recipient: str
    subject: str
    about: str = Field(description="What it is about: a merchant's mail about it is sent once.")
    attachments: list[AttachmentShown]
    state: str = Field(description="due, sent, or dead: refused or given up; `last_error` has the server's words.")
    due_at: datetime
    attempts: int
    last_error: str | None
    created_at: datetime
    finished_at: datetime | None


def _show(row: Any) -> MailShown:
    return MailShown(**row)


@router.get("")
def list_mails(env: EnvIn, caller: CallerIn, query: Annotated[MailQuery, Query()]) -> Page[MailShown]:
    """The newest first. `state=dead` are those that bounced or could not be sent."""
    with env.database.read() as tx:
        found = mails.list_mails(
            tx,
            merchant_id=query.visible_to(caller),
            state=query.state,
            before=query.before,
            limit=query.limit + 1,
        )
    return page_of(found, query.limit, _show, row_id)
