"""Posting to merchants' endpoints: one deadline over everything, no redirects, a small answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime

import aiohttp

from billhook.rules.delivery import outcome_class

DEADLINE_SECONDS = 15.0
"""For name resolution, connecting, TLS, sending, headers and body together (Standard Webhooks advises 15 to 30 s)."""

CONNECT_SECONDS = 5.0

BODY_LIMIT = 64 * 1024
"""Bytes of an answer that are read; the connection is then closed, however much more would come."""

HEADER_LIMIT = 16 * 1024


@dataclass(frozen=True, slots=True)
class Response:
    """How one request ended: with an answer, or with an error and its class."""

    outcome: str
    """`2xx` … `5xx`, or `timeout`, `connect`, `tls`, `protocol`, `url`."""
    status_code: int | None = None
    error: str | None = None
    retry_after: str | None = None
    body: bytes = b""
    duration_ms: int = 0


class Poster:
    """A pooled HTTP client. Use within one event loop; `close` it there."""

    def __init__(self, *, connections: int, deadline_seconds: float = DEADLINE_SECONDS) -> None:
        self._deadline = deadline_seconds
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=connections, ttl_dns_cache=30, keepalive_timeout=30),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,  # a small answer must not unfold into a large one
            trust_env=False,
            max_line_size=HEADER_LIMIT,
            max_field_size=HEADER_LIMIT,
        )

    async def close(self) -> None:
        await self._session.close()

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Response:
        """Post once. Every way to fail is an answer, none an exception."""
        started = time.perf_counter()
        try:
            async with asyncio.timeout(self._deadline):
                response = await self._exchange(url, headers, body)
        except TimeoutError:
            response = Response("timeout", error=f"no complete answer within {self._deadline:g} s")
        except aiohttp.ClientSSLError as error:
            response = Response("tls", error=_text(error))
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError) as error:
            response = Response("url", error=f"not a URL that can be posted to: {_text(error)}")
        except (aiohttp.ClientConnectorError, OSError) as error:
            response = Response("connect", error=_text(error))
        except (aiohttp.ClientError, ValueError) as error:
            response = Response("protocol", error=_text(error))
        elapsed = int((time.perf_counter() - started) * 1000)
        return Response(
            response.outcome, response.status_code, response.error, response.retry_after, response.body, elapsed
        )

    async def _exchange(self, url: str, headers: Mapping[str, str], body: bytes) -> Response:
        async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as answer:
            received = bytearray()
            while len(received) < BODY_LIMIT:
                chunk = await answer.content.read(BODY_LIMIT - len(received))
                if not chunk:
                    break
                received += chunk
            else:
                answer.close()  # there may be no end to it
            return Response(
                outcome_class(answer.status),
                answer.status,
                retry_after=answer.headers.get("Retry-After"),
                body=bytes(received),
            )


def retry_after_seconds(header: str | None, now: datetime) -> float | None:
    """`Retry-After` as seconds from `now` (RFC 9110 section 10.2.3: seconds or an HTTP date); None where unreadable."""
    if header is None:
        return None
    if header.strip().isdecimal():
        return float(min(int(header.strip()[:12]), 10**9))
    try:
        at = parsedate_to_datetime(header)
        return max(0.0, (at - now).total_seconds()) if at.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".replace("\0", "\\0")[:500]
