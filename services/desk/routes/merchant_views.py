"""Links to a merchant's own pages, short-lived, to be opened or framed where the merchant works."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, Field, StringConstraints

from billhook.store.merchant_views import add_merchant_view, revoke_merchant_view
from services.desk.dependencies import Body, CallerIn, EnvIn, Id
from services.desk.refusals import not_found
from services.desk.routes.merchants import find_merchant

router = APIRouter(prefix="/v1/merchants/{merchant_id}/views", tags=["merchants"])

MINUTES = 30
MOST_MINUTES = 24 * 60

Origin = Annotated[
    str,
    StringConstraints(
        max_length=255, pattern=r"^(https://[a-z0-9.-]+(:[0-9]{1,5})?|http://(localhost|127\.0\.0\.1)(:[0-9]{1,5})?)$"
    ),
]


class NewView(Body):
    expires_in_minutes: int = Field(MINUTES, ge=1, le=MOST_MINUTES)
    may_change: bool = Field(True, description="Send again, renew secrets, disable and enable. False: it only shows.")
    embed_origins: list[Origin] = Field(
        default_factory=list, max_length=10, description="Whose pages may show it in a frame: https://app.example.com."
    )


class ViewMade(BaseModel):
    id: str
    merchant_id: str
    may_change: bool
    embed_origins: list[str]
    created_at: datetime
    expires_at: datetime
    url: str = Field(description="The page's address. Whoever has it is taken for the merchant; it is shown this once.")


@router.post("", status_code=201)
def create_view(env: EnvIn, caller: CallerIn, merchant_id: Id, new: NewView) -> ViewMade:
    """Make a link to the merchant's pages: endpoints, deliveries with attempts, replay, secrets, invoices."""
    now = env.clock()
    with env.database.begin() as tx:
        find_merchant(tx, merchant_id, caller)
        view, token = add_merchant_view(
            tx,
            merchant_id,
            may_change=new.may_change,
            embed_origins=new.embed_origins,
            expires_at=now + timedelta(minutes=new.expires_in_minutes),
            by=caller.key_id,
            now=now,
        )
    return ViewMade(**vars(view), url=f"{env.settings.public}/m/{token}")


@router.delete("/{view_id}", status_code=204)
def revoke_view(env: EnvIn, caller: CallerIn, merchant_id: Id, view_id: Id) -> None:
    """The link opens nothing from now on."""
    with env.database.begin() as tx:
        find_merchant(tx, merchant_id, caller)
        if not revoke_merchant_view(tx, view_id, merchant_id=merchant_id):
            raise not_found("view")
