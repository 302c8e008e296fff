"""A Paddle API to list and fetch from, on a loopback port: what you put in is what it shows, newest first.

    with FakePaddle() as fake:
        fake.put("customers", {"id": "ctm_02", …})
        PaddleApi(fake.api_key, base_url=fake.url)

It makes nothing of its own accord: entities and events are put in as Paddle would show them. `fake.befall("circle")`
makes the next answer misbehave.
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal, Self, get_args
from urllib.parse import parse_qs, urlsplit

Json = dict[str, Any]
FaultKind = Literal[
    "rate_limit", "server_error", "forbidden", "circle", "repeat", "skip", "unknown_version", "not_json", "redirect"
]


class FakePaddle:
    """Its lists have pages of `page_size`, whatever is asked for."""

    def __init__(self, *, api_key: str = "pdl_sdbx_apikey_fake", page_size: int = 50) -> None:
        self.api_key = api_key
        self.page_size = page_size
        self._held: dict[str, dict[str, Json]] = {}
        self._faults: list[tuple[FaultKind, int]] = []
        self._lock = threading.Lock()
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        assert self._server is not None, "it listens inside `with` only"
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def put(self, path: str, entity: Json) -> None:
        """Show an entity under `customers`, `transactions`… or an event under `events`; a known id is replaced."""
        with self._lock:
            self._held.setdefault(path, {})[entity["event_id" if path == "events" else "id"]] = entity

    def remove(self, path: str, external_id: str) -> None:
        with self._lock:
            del self._held[path][external_id]

    def befall(self, kind: FaultKind, times: int = 1) -> None:
        if kind not in get_args(FaultKind):
            raise ValueError(f"{kind!r} is no fault; known: {', '.join(get_args(FaultKind))}")
        with self._lock:
            self._faults.append((kind, times))

    def __enter__(self) -> Self:
        fake = self

        class Answers(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                status, headers, body = fake.answer(self.path, self.headers.get("Authorization", ""))
                self.send_response(status)
                for name, text in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, text)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="fake-paddle", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._server is not None
        assert self._thread is not None
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._server = self._thread = None

    def answer(self, target: str, authorization: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body."""
        with self._lock:
            fault = self._take()
            if authorization != f"Bearer {self.api_key}":
                return _refused(403, "authentication_malformed", "Authentication header included, but incorrect.")
            if fault == "rate_limit":
                status, headers, body = _refused(429, "too_many_requests", "Too many requests.")
                return status, {**headers, "Retry-After": "7"}, body
            if fault == "server_error":
                return _refused(500, "internal_error", "Something went wrong.")
            if fault == "not_json":
                return 200, {"Content-Type": "text/html"}, b"<html>Maintenance</html>"
            if fault == "redirect":
                return 302, {"Location": "http://127.0.0.1:9/elsewhere"}, b""
            url = urlsplit(target)
            path, _, external_id = url.path.strip("/").partition("/")
            if fault == "forbidden":
                wanted = f"{path.removesuffix('s')}.read"
                return _refused(403, "forbidden", f"The API key does not have the {wanted} permission.")
            held = self._held.get(path, {})
            if external_id:
                if external_id not in held:
                    return _refused(404, "entity_not_found", f"Unable to find {path} {external_id!r}.")
                return _answered({"data": held[external_id]})
            return _answered(self._listed(path, {name: texts[0] for name, texts in parse_qs(url.query).items()}, fault))

    def _take(self) -> FaultKind | None:
        if not self._faults:
            return None
        kind, times = self._faults[0]
        self._faults[0:1] = [(kind, times - 1)] if times > 1 else []
        return kind

    def _listed(self, path: str, query: dict[str, str], fault: FaultKind | None) -> Json:
        held = self._held.get(path, {})
        ids = sorted(held, reverse=query.get("order_by") == "id[DESC]")
        if "id" in query:
            ids = [external_id for external_id in ids if external_id in query["id"].split(",")]
        if "after" in query and fault != "circle":
            ids = [one for one in ids if (one < query["after"]) == (query.get("order_by") == "id[DESC]")]
            ids = [one for one in ids if one != query["after"]]
        shown = [held[external_id] for external_id in ids[: self.page_size]]
        if shown and fault == "repeat":
            shown = [shown[0], *shown]
        elif shown and fault == "skip":
            shown = shown[1:]
        elif shown and fault == "unknown_version":
            shown = [{"id": shown[0].get("id"), "shape": "of tomorrow"}, *shown[1:]]
        return {"data": shown, "meta": {"pagination": {"per_page": self.page_size, "has_more": len(ids) > len(shown)}}}


def _answered(value: Json) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()


def _refused(status: int, code: str, detail: str) -> tuple[int, dict[str, str], bytes]:
    error = {"type": "request_error", "code": code, "detail": detail}
    return status, {"Content-Type": "application/json"}, json.dumps({"error": error}).encode()
