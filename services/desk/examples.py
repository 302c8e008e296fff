"""An example of every body, for the page of the API. A test sends each of them."""

from __future__ import annotations

from typing import Any, Final

_TERMS: Final[dict[str, Any]] = {
    "currency": "eur",
    "customer": "cus_1",
    "buyer": {"name": "Harbor & Sons", "email": "ap@harbor.example"},
    "lines": [{"description": "Team plan, 3 seats", "quantity": "3", "unit_amount": "1299", "tax": {"percent": "19"}}],
}
_POLICY: Final[dict[str, Any]] = {"name": "patient", "grace_days": 3, "attempts": [0, 3, 7], "end_day": 14}
_LOOK: Final = {"template": "billhook-3"}
_SPAN: Final = {"since": "2026-11-01T00:00:00Z", "until": "2026-11-02T00:00:00Z"}

EXAMPLES: Final[dict[str, Any]] = {
    "POST /v1/merchants": {"name": "Harbor Books Ltd", "locale": "de-AT", "contact_email": "ops@harbor.example"},
    "PATCH /v1/merchants/{merchant_id}": {"contact_email": "ops@harbor.example"},
    "POST /v1/merchants/{merchant_id}/keys": {"name": "shop", "scope": "publish", "expires_in_days": 365},
    "POST /v1/merchants/{merchant_id}/views": {"embed_origins": ["https://app.harbor.example"]},
    "PUT /v1/merchants/{merchant_id}/seller": {"name": "Harbor Books Ltd", "email": "billing@harbor.example"},
    "PUT /v1/merchants/{merchant_id}/invoicing": {},
    "POST /v1/merchants/{merchant_id}/templates": {"name": "ours", "source": "<h1>{{ document.number }}</h1>"},
    "PUT /v1/merchants/{merchant_id}/dunning": _POLICY,
    "POST /v1/sources": {"provider": "standard", "name": "in-house billing"},
    "POST /v1/sources/{source_id}/rotate": {},
    "PUT /v1/sources/{source_id}/api-key": {"api_key": "rk_test_1"},
    "PUT /v1/sources/{source_id}/mode": {"livemode": True},
    "POST /v1/endpoints": {"url": "https://example.com/hooks", "event_types": ["invoice.*"], "max_in_flight": 8},
    "PATCH /v1/endpoints/{endpoint_id}": {"event_types": ["*"]},
    "POST /v1/endpoints/{endpoint_id}/rotate": {"overlap_seconds": 86400},
    "POST /v1/endpoints/{endpoint_id}/disable": {"reason": "the receiver moves"},
    "POST /v1/endpoints/{endpoint_id}/enable": {"replay_held": True},
    "POST /v1/events/replays": {"event_types": ["invoice.*"], **_SPAN},
    "POST /v1/events/replays/preview": {"event_types": ["invoice.*"], **_SPAN},
    "POST /v1/invoices": {**_TERMS, "finalize": True},
    "PUT /v1/invoices/{invoice_id}": _TERMS,
    "POST /v1/invoices/preview": _TERMS,
    "POST /v1/invoices/{invoice_id}/pay": {"paid_at": "2026-11-02T09:30:00Z", "reference": "bank 4711"},
    "POST /v1/invoices/{invoice_id}/send": {"to": ["ap@harbor.example"]},
    "POST /v1/invoices/{invoice_id}/credit-notes": {"reason": "order_change", "memo": "Two seats fewer."},
    "POST /v1/invoices/{invoice_id}/documents/{kind}": _LOOK,
    "POST /v1/invoices/{invoice_id}/links": {"expires_in_days": 30},
    "POST /v1/credit-notes/{credit_note_id}/documents/credit_note": _LOOK,
    "POST /v1/credit-notes/{credit_note_id}/send": {"to": ["ap@harbor.example"]},
    "POST /v1/messages": {"event_type": "order.shipped", "data": {"order": 17}, "customer": "cus_1"},
    "POST /v1/replays": {"kind": "replay", "states": ["dead", "held"], **_SPAN},
    "POST /v1/dead-letters/replay": {"queue": "deliveries", "limit": 100},
    "POST /v1/dunning/cases/{case_id}/grace": {"days": 7},
    "PUT /v1/dunning/cases/{case_id}/plan": _POLICY,
    "POST /v1/dunning/cases/{case_id}/stop": {"reason": "they called, and pay by bank transfer"},
    "POST /v1/reconciliation/runs": {"source_id": "src_" + "0" * 32, "observe": True},
}


def add_examples(document: dict[str, Any]) -> None:
    """Put them into an OpenAPI document."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if (example := EXAMPLES.get(f"{method.upper()} {path}")) is not None:
                operation["requestBody"]["content"]["application/json"]["example"] = example
