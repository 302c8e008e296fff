"""What passes between a passkey and the console (WebAuthn): what a browser is asked, and whether its answer proves
anything. Values in, values out; `webauthn` is imported by whoever uses it first.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from billhook.store.passkeys import CHALLENGE

LONGEST_ANSWER: Final = 20_000
"""Characters. With the longest key of RSA an answer has some three thousand."""

LONGEST_CREDENTIAL_ID: Final = 1023
"""Bytes, which the standard sets."""

_USUAL_PORTS: Final = {"https": 443, "http": 80}


class NotProven(Exception):
    """The answer is not what a passkey gives to this challenge; the message is for the log."""


@dataclass(frozen=True)
class Party:
    """For whom a passkey signs: browsers let it sign for nobody else."""

    id: str
    origin: str


def party_of(public_url: str) -> Party | None:
    """None where browsers allow no passkeys: without TLS, but for localhost, and at an address without a name."""
    parts = urlsplit(public_url)
    try:
        host = (parts.hostname or "").encode("idna").decode()
        port = parts.port
    except ValueError:
        return None
    on_machine = host == "localhost" or host.endswith(".localhost")
    if not host or (parts.scheme != "https" and not on_machine) or _is_address(host):
        return None
    shown = "" if port in (None, _USUAL_PORTS.get(parts.scheme)) else f":{port}"
    return Party(host, f"{parts.scheme}://{host}{shown}")


def _is_address(host: str) -> bool:
    with suppress(ValueError):
        ipaddress.ip_address(host)
        return True
    return False


@dataclass(frozen=True)
class Made:
    """A passkey that a browser has made."""

    credential_id: bytes
    public_key: bytes
    sign_count: int


@dataclass(frozen=True)
class Claim:
    """Whose an answer says that it is."""

    credential_id: bytes
    user: bytes | None


def to_make_one(party: Party, challenge: bytes, person: str, name: str, known: Sequence[bytes]) -> str:
    """What the browser is asked to make a passkey, in JSON. It is to find it by itself later, without being told whose,
    and not to make a second one where it has one of the `known`."""
    from webauthn import generate_registration_options, options_to_json
    from webauthn.helpers.structs import (
        AuthenticatorSelectionCriteria,
        PublicKeyCredentialDescriptor,
        ResidentKeyRequirement,
        UserVerificationRequirement,
    )

    options = generate_registration_options(
        rp_id=party.id,
        rp_name="billhook",
        user_id=person.encode(),
        user_name=name,
        challenge=challenge,
        timeout=_milliseconds(),
        authenticator_selection=AuthenticatorSelectionCriteria(
            resident_key=ResidentKeyRequirement.REQUIRED, user_verification=UserVerificationRequirement.REQUIRED
        ),
        exclude_credentials=[PublicKeyCredentialDescriptor(id=one) for one in known],
    )
    return options_to_json(options)


def to_show_one(party: Party, challenge: bytes) -> str:
    """What the browser is asked for a sign-in, in JSON: any passkey it has for here."""
    from webauthn import generate_authentication_options, options_to_json
    from webauthn.helpers.structs import UserVerificationRequirement

    options = generate_authentication_options(
        rp_id=party.id,
        challenge=challenge,
        timeout=_milliseconds(),
        user_verification=UserVerificationRequirement.REQUIRED,
    )
    return options_to_json(options)


def made(party: Party, challenge: bytes, answer: str) -> Made:
    """The passkey that was made for this challenge. Raises `NotProven`."""
    with _reading():
        from webauthn import verify_registration_response
        from webauthn.helpers import parse_registration_credential_json

        credential = parse_registration_credential_json(answer)
        _refuse_frames(credential.response.client_data_json)
        proven = verify_registration_response(
            credential=credential,
            expected_challenge=challenge,
            expected_rp_id=party.id,
            expected_origin=party.origin,
            require_user_verification=True,
        )
    if not 0 < len(proven.credential_id) <= LONGEST_CREDENTIAL_ID:
        raise NotProven(f"its id has {len(proven.credential_id)} bytes")
    return Made(proven.credential_id, proven.credential_public_key, proven.sign_count)


def claimed(answer: str) -> Claim:
    """Which passkey says that it answered. Raises `NotProven` where no answer can be read."""
    with _reading():
        from webauthn.helpers import parse_authentication_credential_json

        credential = parse_authentication_credential_json(answer)
        return Claim(credential.raw_id, credential.response.user_handle)


def shown(party: Party, challenge: bytes, public_key: bytes, answer: str) -> int:
    """How often the passkey says that it has signed, with this for this challenge. Raises `NotProven`."""
    with _reading():
        from webauthn import verify_authentication_response
        from webauthn.helpers import parse_authentication_credential_json

        credential = parse_authentication_credential_json(answer)
        _refuse_frames(credential.response.client_data_json)
        proven = verify_authentication_response(
            credential=credential,
            expected_challenge=challenge,
            expected_rp_id=party.id,
            expected_origin=party.origin,
            credential_public_key=public_key,
            credential_current_sign_count=0,  # whoever keeps the passkey compares it, in the statement that notes it
            require_user_verification=True,
        )
        return proven.new_sign_count


def _refuse_frames(said: bytes) -> None:
    """The console stands in nobody's frame: an answer from there was not meant for it."""
    from webauthn.helpers import parse_client_data_json

    if parse_client_data_json(said).cross_origin:
        raise NotProven("it was given in a frame of another page")


@contextmanager
def _reading() -> Iterator[None]:
    """What strangers sent goes through readers of JSON, CBOR, X.509 and keys, of which each fails in its own way."""
    try:
        yield
    except (ImportError, NotProven):
        raise
    except Exception as error:
        raise NotProven(f"{type(error).__name__}: {error}") from error


def _milliseconds() -> int:
    return int(CHALLENGE.total_seconds()) * 1000
