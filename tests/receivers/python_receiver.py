"""A merchant's endpoint in Python, which verifies with whatever it is given."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def served(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """The address of a server on loopback."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def python_receiver(verify: Callable[[Message, bytes], object]) -> Iterator[str]:
    """Answers 204 where `verify` returns, and 400 where it raises."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            try:
                verify(self.headers, body)
            except Exception as error:
                self.send_error(400, str(error))
            else:
                self.send_response(204)
                self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with served(Handler) as url:
        yield url
