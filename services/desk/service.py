"""The desk: the operators' and merchants' HTTP API."""

from billhook.runtime.service import Service
from services.desk.app import build

SERVICE = Service(
    name="desk",
    summary="The HTTP API for operators and merchants: set-up, events, invoices, repairs.",
    app=build,
)
