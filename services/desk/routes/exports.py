"""Exports: a period's invoices as a file, streamed."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from billhook.actions.exports import Format, export, period
from billhook.rules.book import InvoiceStatus
from billhook.rules.export import COLUMNS
from services.desk.dependencies import CallerIn, EnvIn, Id, Optional, Text
from services.desk.refusals import not_found

router = APIRouter(prefix="/v1/exports", tags=["exports"])

_MEDIA_TYPES: dict[Format, str] = {"csv": "text/csv", "jsonl": "application/jsonl"}
_COLUMNS = "\n".join(f"- `{name}`: {what}" for name, what in COLUMNS.items())


class ExportQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    merchant_id: Id | Optional = Field(None, description="With the operator's key: only this merchant's.")
    since: Text | Optional = Field(
        None,
        alias="from",
        description="Issued (or made, where it is not issued yet) then or later: a day in the merchant's time zone,"
        " `2026-01-01`, or a time with its offset.",
    )
    until: Text | Optional = Field(None, alias="to", description="Before then, likewise: that day is not in it.")
    status: InvoiceStatus | Optional = None


def _file(env: EnvIn, caller: CallerIn, query: ExportQuery, kind: Format) -> StreamingResponse:
    if caller.merchant_id is not None and query.merchant_id not in (None, caller.merchant_id):
        raise not_found("merchant")
    merchant_id = caller.merchant_id or query.merchant_id
    since, until = period(env, merchant_id, query.since, query.until)
    lines = export(env, merchant_id, kind, since=since, until=until, status=query.status)
    return StreamingResponse(
        lines,
        media_type=_MEDIA_TYPES[kind],
        headers={"Content-Disposition": f'attachment; filename="invoices.{kind}"'},
    )


@router.get(
    "/invoices.csv",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/csv": {"schema": {"type": "string"}}}}},
    description="All invoices of a period, as a spreadsheet reads them (RFC 4180, UTF-8), in the order of their ids."
    " Amounts are in major units. A text that a spreadsheet would compute has an apostrophe in front.\n\n" + _COLUMNS,
)
def export_csv(env: EnvIn, caller: CallerIn, query: Annotated[ExportQuery, Query()]) -> StreamingResponse:
    return _file(env, caller, query, "csv")


@router.get(
    "/invoices.jsonl",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/jsonl": {"schema": {"type": "string"}}}}},
    description="The same invoices, a line of JSON for each. Amounts are integers in minor units.\n\n" + _COLUMNS,
)
def export_jsonl(env: EnvIn, caller: CallerIn, query: Annotated[ExportQuery, Query()]) -> StreamingResponse:
    return _file(env, caller, query, "jsonl")
