"""A webhook sender: knows the secret and signs what it posts."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from consumers.world import SECRET, stripe_signature
from ingress.asgi import Answer, Client

from billhook.rules.signing import signed_headers
from billhook.runtime.env import Env
from billhook.store.schema import metadata

__all__ = ["SECRET", "Door", "stripe_event"]


def stripe_event(event_id: str, **fields: Any) -> bytes:
    whole = {"id": event_id, "object": "event", "created": 1, "type": "x.y", "data": {"object": {}}, **fields}
    return json.dumps(whole).encode()


@dataclass
class Door:
    """The ingress with a source of each provider."""

    client: Client
    env: Env
    merchant_id: str
    stripe_source: str
    own_source: str

    def path(self, source: str | None = None) -> str:
        return f"/v1/sources/{source or self.stripe_source}/events"

    def stripe(self, body: bytes, *, at: float | None = None, secret: str = SECRET, **headers: str) -> Answer:
        signature = headers.pop("stripe_signature", stripe_signature(body, secret=secret, at=at))
        return self.client.post(self.path(), body, stripe_signature=signature, **headers)

    @staticmethod
    def signed(body: bytes) -> dict[str, str]:
        return {"stripe_signature": stripe_signature(body)}

    def own(self, message_id: str, body: bytes) -> Answer:
        signed = signed_headers([SECRET], message_id, datetime.fromtimestamp(time.time(), UTC), body)
        return self.client.post(self.path(self.own_source), body, **signed)

    def stored(self, *columns: str, table: str = "inbox") -> list[tuple[Any, ...]]:
        chosen = [metadata.tables[table].c[name] for name in columns]
        with self.env.database.read() as tx:
            return [tuple(row) for row in tx.execute(sa.select(*chosen).order_by(*chosen))]
