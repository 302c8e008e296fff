"""Exports: a period's invoices or credit notes as a file, streamed."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from billhook.actions.exports import export, period
from billhook.rules.book.invoice import CreditNoteStatus, InvoiceStatus
from billhook.rules.export import COLUMNS, PLAIN, Decimals, Delimiter, Format, Kind, Mode, Preset, Style, style_of
from services.desk.dependencies import CallerIn, EnvIn, Id, Optional, Text
from services.desk.lengthy import Lengthy
from services.desk.refusals import not_found

router = APIRouter(prefix="/v1/exports", tags=["exports"], route_class=Lengthy)

_MEDIA_TYPES: dict[Format, str] = {"csv": "text/csv", "jsonl": "application/jsonl"}
_COLUMNS = {
    kind: "\n".join(f"- `{name}`: {what}" for name, what in columns.items()) for kind, columns in COLUMNS.items()
}
_CSV = (
    " as a spreadsheet reads them (RFC 4180, UTF-8), in the order of their numbers. Amounts are in major units, and"
    " every text is in quotes. A text that a spreadsheet would compute has an apostrophe in front of the sign.\n\n"
)


class Period(BaseModel):
    model_config = ConfigDict(extra="forbid")

    merchant_id: Id | Optional = Field(None, description="With the operator's key: only this merchant's.")
    since: Text | Optional = Field(
        None,
        alias="from",
        description="Issued (or made, where it is not issued yet) then or later: a day in the merchant's time zone,"
        " `2026-01-01`, or a time with its offset.",
    )
    until: Text | Optional = Field(None, alias="to", description="Before then, likewise: that day is not in it.")
    mode: Mode = Field("live", description="`test`: what sources in test mode told, in place of what is real.")


class Spreadsheet(BaseModel):
    preset: Preset | Optional = Field(
        None,
        description="`excel`: for an Excel with decimal commas: semicolons, a BOM, times without their offset. What is"
        " named beside it counts more.",
    )
    delimiter: Delimiter | Optional = Field(None, description="Default: comma.")
    decimals: Decimals | Optional = Field(None, description="Default: point.")
    bom: bool | Optional = Field(None, description="Begin with a byte order mark, as Excel needs it. Default: no.")

    @property
    def style(self) -> Style:
        return style_of(self.preset, delimiter=self.delimiter, decimals=self.decimals, bom=self.bom)


class InvoicesQuery(Period):
    status: InvoiceStatus | Optional = None


class CreditNotesQuery(Period):
    status: CreditNoteStatus | Optional = None


class InvoicesSheet(InvoicesQuery, Spreadsheet):
    pass


class CreditNotesSheet(CreditNotesQuery, Spreadsheet):
    pass


def _file(
    env: EnvIn, caller: CallerIn, kind: Kind, query: InvoicesQuery | CreditNotesQuery, style: Style | None
) -> StreamingResponse:
    if caller.merchant_id is not None and query.merchant_id not in (None, caller.merchant_id):
        raise not_found("merchant")
    merchant_id = caller.merchant_id or query.merchant_id
    since, until = period(env, merchant_id, query.since, query.until)
    form: Format = "jsonl" if style is None else "csv"
    lines = export(
        *(env, kind, merchant_id, form),
        since=since,
        until=until,
        status=query.status,
        mode=query.mode,
        style=style or PLAIN,
    )
    name = f"{kind}s" if query.mode == "live" else f"test-{kind}s"
    return StreamingResponse(
        lines,
        media_type=_MEDIA_TYPES[form],
        headers={"Content-Disposition": f'attachment; filename="{name}.{form}"'},
    )


@router.get(
    "/invoices.csv",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/csv": {"schema": {"type": "string"}}}}},
    description="All invoices of a period," + _CSV + _COLUMNS["invoice"],
)
def export_invoices_csv(env: EnvIn, caller: CallerIn, query: Annotated[InvoicesSheet, Query()]) -> StreamingResponse:
    return _file(env, caller, "invoice", query, query.style)


@router.get(
    "/invoices.jsonl",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/jsonl": {"schema": {"type": "string"}}}}},
    description="The same invoices, a line of JSON for each. Amounts are integers in minor units.\n\n"
    + _COLUMNS["invoice"],
)
def export_invoices_jsonl(env: EnvIn, caller: CallerIn, query: Annotated[InvoicesQuery, Query()]) -> StreamingResponse:
    return _file(env, caller, "invoice", query, None)


@router.get(
    "/credit-notes.csv",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/csv": {"schema": {"type": "string"}}}}},
    description="All credit notes of a period," + _CSV + _COLUMNS["credit_note"],
)
def export_credit_notes_csv(
    env: EnvIn, caller: CallerIn, query: Annotated[CreditNotesSheet, Query()]
) -> StreamingResponse:
    return _file(env, caller, "credit_note", query, query.style)


@router.get(
    "/credit-notes.jsonl",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/jsonl": {"schema": {"type": "string"}}}}},
    description="The same credit notes, a line of JSON for each. Amounts are integers in minor units.\n\n"
    + _COLUMNS["credit_note"],
)
def export_credit_notes_jsonl(
    env: EnvIn, caller: CallerIn, query: Annotated[CreditNotesQuery, Query()]
) -> StreamingResponse:
    return _file(env, caller, "credit_note", query, None)
