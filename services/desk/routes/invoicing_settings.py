"""A merchant's invoicing: who the seller is, how invoices are numbered and made, the logo, templates of their own."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from fastapi.responses import Response
from pydantic import BaseModel, Field

from billhook.actions.invoicing_settings import change_invoicing, change_logo, change_seller, store_logo
from billhook.actions.templates import LARGEST_TEMPLATE, add_template, retire
from billhook.documents.logo import LARGEST_LOGO, LARGEST_SIDE
from billhook.rules.document import Seller
from billhook.rules.invoicing_settings import InvoicingSettings
from billhook.store import templates
from billhook.store.templates import Template
from services.desk import bodies
from services.desk.dependencies import Body, CallerIn, EnvIn, Id, Page, Text, page_of
from services.desk.lengthy import Lengthy
from services.desk.refusals import not_found
from services.desk.routes.merchants import MerchantListing, find_merchant

router = APIRouter(prefix="/v1/merchants/{merchant_id}", tags=["invoicing"])
long = APIRouter(prefix=router.prefix, tags=router.tags, route_class=Lengthy)

SELLER: dict[int | str, dict[str, Any]] = {200: bodies.answers(Seller)}
INVOICING: dict[int | str, dict[str, Any]] = {200: bodies.answers(InvoicingSettings)}

_PICTURE = {"schema": {"type": "string", "format": "binary", "maxLength": LARGEST_LOGO}}
_A_LOGO = {"requestBody": {"required": True, "content": {"image/png": _PICTURE, "image/jpeg": _PICTURE}}}


class NewTemplate(Body):
    name: Text = Field(description="For people.")
    source: str = Field(
        description="HTML in Jinja's language, which gets what the document says as `document` and the logo as `logo`."
        f" At most {LARGEST_TEMPLATE // 1024} KiB.",
        json_schema_extra={"maxLength": LARGEST_TEMPLATE},
    )


class TemplateShown(BaseModel):
    id: str = Field(description="Put it into `template` of the invoicing settings to have new documents in this look.")
    merchant_id: str
    name: str
    created_at: datetime
    retired_at: datetime | None


class TemplateWhole(TemplateShown):
    source: str


def _template(template: Template) -> TemplateShown:
    return TemplateShown(**vars(template))


@router.get("/seller", response_class=Response, responses=SELLER)
def get_seller(env: EnvIn, caller: CallerIn, merchant_id: Id) -> Response:
    """The merchant, as documents show it."""
    with env.database.read() as tx:
        return bodies.answer(find_merchant(tx, merchant_id, caller).seller)


@router.put("/seller", response_class=Response, responses=SELLER, openapi_extra=bodies.asks(Seller))
def put_seller(
    env: EnvIn, caller: CallerIn, merchant_id: Id, seller: Annotated[Seller, Depends(bodies.read(Seller))]
) -> Response:
    """Set all of it, but for the logo. Documents issued before stay as they are."""
    with env.database.begin() as tx:
        find_merchant(tx, merchant_id, caller)
        return bodies.answer(change_seller(tx, merchant_id, seller).seller)


@router.put(
    "/logo",
    response_class=Response,
    responses=SELLER,
    openapi_extra=_A_LOGO,
    description=f"The picture itself as the body: PNG or JPEG, at most {LARGEST_LOGO // 1024} KiB and {LARGEST_SIDE}"
    " pixels on each side. Documents issued before keep the one they have.",
)
def put_logo(env: EnvIn, caller: CallerIn, merchant_id: Id, content: bodies.RawBody) -> Response:
    with env.database.read() as tx:
        find_merchant(tx, merchant_id, caller)
    logo = store_logo(env, content)  # between two transactions: none waits for the storage
    with env.database.begin() as tx:
        return bodies.answer(change_logo(tx, merchant_id, logo).seller)


@router.delete("/logo", status_code=204)
def delete_logo(env: EnvIn, caller: CallerIn, merchant_id: Id) -> None:
    """Show none from now on."""
    with env.database.begin() as tx:
        find_merchant(tx, merchant_id, caller)
        change_logo(tx, merchant_id, None)


@router.get("/invoicing", response_class=Response, responses=INVOICING)
def get_invoicing(env: EnvIn, caller: CallerIn, merchant_id: Id) -> Response:
    """How the merchant's own invoices are numbered, made and sent."""
    with env.database.read() as tx:
        return bodies.answer(find_merchant(tx, merchant_id, caller).invoicing)


@router.put("/invoicing", response_class=Response, responses=INVOICING, openapi_extra=bodies.asks(InvoicingSettings))
def put_invoicing(
    env: EnvIn,
    caller: CallerIn,
    merchant_id: Id,
    settings: Annotated[InvoicingSettings, Depends(bodies.read(InvoicingSettings))],
) -> Response:
    """Set all of it; what is left out is the default. It counts from the next finalization on: a prefix that was used
    before goes on where it was."""
    with env.database.begin() as tx:
        find_merchant(tx, merchant_id, caller)
        return bodies.answer(change_invoicing(tx, merchant_id, settings).invoicing)


@long.post("/templates", status_code=201)
def create_template(env: EnvIn, caller: CallerIn, merchant_id: Id, new: NewTemplate) -> TemplateShown:
    """Add a template. It is tried on samples first; what is wrong with it is said with the line. It never changes:
    another look is another template."""
    with env.database.read() as tx:
        find_merchant(tx, merchant_id, caller)
    return _template(add_template(env, merchant_id, new.name, new.source, env.clock()))


@router.get("/templates")
def list_templates(
    env: EnvIn, caller: CallerIn, merchant_id: Id, query: Annotated[MerchantListing, Query()]
) -> Page[TemplateShown]:
    """Those in use, the oldest first."""
    with env.database.read() as tx:
        find_merchant(tx, merchant_id, caller)
        found = templates.list_templates(tx, merchant_id, after=query.after or "", limit=query.limit + 1)
    return page_of(found, query.limit, _template, lambda template: template.id)


@router.get("/templates/{template_id}")
def get_template(env: EnvIn, caller: CallerIn, merchant_id: Id, template_id: Id) -> TemplateWhole:
    """One with its source, also when it is retired."""
    with env.database.read() as tx:
        find_merchant(tx, merchant_id, caller)
        template = templates.get_template(tx, template_id, merchant_id=merchant_id)
    if template is None:
        raise not_found("template")
    return TemplateWhole(**vars(template))


@router.delete("/templates/{template_id}", status_code=204)
def retire_template(env: EnvIn, caller: CallerIn, merchant_id: Id, template_id: Id) -> None:
    """Use it for nothing new. Documents that were made with it stay, and can be drawn again."""
    with env.database.begin() as tx:
        find_merchant(tx, merchant_id, caller)
        if not retire(tx, merchant_id, template_id, env.clock()):
            raise not_found("template in use")


router.routes.extend(long.routes)
