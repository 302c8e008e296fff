"""The ingress: takes signed events over HTTP, makes them durable, answers. Nothing else happens here."""

from billhook.runtime.service import Service
from services.ingress.app import build

SERVICE = Service(
    name="ingress",
    summary="Takes signed events, commits them to the inbox, answers 2xx.",
    app=build,
)
