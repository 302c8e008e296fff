"""Published test vectors of Standard Webhooks, from the official libraries, Svix and Postel."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import UTC, datetime

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_" + base64.b64encode(b"\xab" * 32).decode()
PRIVATE = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg=="
PUBLIC = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="
SEED = "whsk_" + base64.b64encode(b"\xcd" * 32).decode()
PUBLIC_OF_SEED = "whpk_/JR3MPSesBQnpm4FBzMpTZ5SDlRceicSWngGNOCGCic="

BODY = b'{"test": 2432232314}'
HELLO = b'{"type":"test.hello","timestamp":"2026-01-01T00:00:00Z","data":{"hello":"world"}}'


@dataclass(frozen=True)
class Vector:
    signs: str
    verifies: str
    """The same secret for `v1`; the public key for `v1a`."""
    id: str
    seconds: int
    body: bytes
    signature: str

    @property
    def at(self) -> datetime:
        return datetime.fromtimestamp(self.seconds, UTC)

    @property
    def headers(self) -> dict[str, str]:
        return {
            "webhook-id": self.id,
            "webhook-timestamp": str(self.seconds),
            "webhook-signature": self.signature,
        }


VECTORS = {
    "official": Vector(
        SECRET,
        SECRET,
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1614265330,
        BODY,
        "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    ),
    "svix, Ed25519": Vector(
        PRIVATE,
        PUBLIC,
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1614265330,
        BODY,
        "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==",
    ),
    "svix, documentation": Vector(
        "whsec_plJ3nmyCDGBKInavdOK15jsl",
        "whsec_plJ3nmyCDGBKInavdOK15jsl",
        "msg_loFOjxBNrRLzqYUf",
        1731705121,
        b'{"event_type":"ping","data":{"success":true}}',
        "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0=",
    ),
    "postel, raw bytes": Vector(
        OTHER,
        OTHER,
        "msg_rawbytes_reserialized",
        1767225600,
        b'{"type":"test.hello","data":{"key":"value"}}',
        "v1,9yIHNZqCjfmYCUeRbA8ewvA8j4r92Pj7bBasAkvdRSY=",
    ),
    "postel": Vector(
        OTHER,
        OTHER,
        "msg_sigv1_valid",
        1767225600,
        HELLO,
        "v1,vr+LvThz8Z3i85RV0AOZKSAacUBmLcPMtxm8s+cm0oo=",
    ),
    "postel, Ed25519": Vector(
        SEED,
        PUBLIC_OF_SEED,
        "msg_sigv1a_valid",
        1767225600,
        HELLO,
        "v1a,D3aKPmv3zcRP8a4G4HQkSHa+/+fi/2C1WGAhAUau72YyHwzMmTesRT4Bt0CaqRsCbjgNqHnjpMJjP8oJyNIlAA==",
    ),
}
