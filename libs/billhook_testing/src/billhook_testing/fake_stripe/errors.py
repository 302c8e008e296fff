"""What the fake answers when it refuses: the status and body from which the SDK picks its exception class."""

from __future__ import annotations

from typing import Any


class ApiError(Exception):
    """One refused request. `kept` says whether an idempotency key replays it, as Stripe does for begun requests."""

    def __init__(self, status: int, type_: str, message: str, *, kept: bool = False, **fields: Any) -> None:
        super().__init__(message)
        self.status = status
        self.kept = kept
        self.headers: dict[str, str] = {}
        self.body: dict[str, Any] = {"error": {**fields, "message": message, "type": type_}}


def invalid(message: str, *, param: str | None = None, code: str | None = None, status: int = 400) -> ApiError:
    fields: dict[str, Any] = {"code": code, "param": param}
    fields = {name: value for name, value in fields.items() if value is not None}
    return ApiError(status, "invalid_request_error", message, **fields)


def missing(noun: str, object_id: str, *, param: str = "id", status: int = 404) -> ApiError:
    return invalid(f"No such {noun}: '{object_id}'", param=param, code="resource_missing", status=status)


def bad_transition(message: str) -> ApiError:
    return invalid(message, code="status_transition_invalid")


def bad_key(shown: str) -> ApiError:
    return invalid(f"Invalid API Key provided: {shown}", status=401)


def card_declined(last_error: dict[str, Any]) -> ApiError:
    """`last_error` is a payment intent's `last_payment_error`: the same fields come back in the answer."""
    rest = {name: value for name, value in last_error.items() if name not in ("message", "type")}
    return ApiError(402, "card_error", last_error["message"], kept=True, **rest)


def forbidden(path: str) -> ApiError:
    """What a restricted key hears that lacks a permission; Stripe names it."""
    resource = path.removeprefix("/v1/").partition("/")[0].removesuffix("s")
    wanted = f"rak_{resource}_read"
    message = f"The provided key lacks a permission. Having '{wanted}' would allow this request to continue."
    return ApiError(403, "invalid_request_error", message)


def no_account(account: str) -> ApiError:
    message = (
        f"The provided key does not have access to account '{account}' (or that account does not exist)."
        " Application access may have been revoked."
    )
    return ApiError(403, "invalid_request_error", message, code="account_invalid")


def rate_limited(retry_after: int) -> ApiError:
    error = ApiError(429, "invalid_request_error", "Too many requests.", code="rate_limit")
    error.headers["retry-after"] = str(retry_after)
    return error


def server_error() -> ApiError:
    return ApiError(500, "api_error", "An unknown error occurred.", kept=True)


def key_in_use(key: str) -> ApiError:
    message = f"Another request with the idempotency key {key!r} is in progress."
    return ApiError(409, "idempotency_error", message, code="idempotency_key_in_use")


def key_reused(key: str) -> ApiError:
    message = f"The idempotency key {key!r} was first used with other parameters."
    return ApiError(400, "idempotency_error", message)
