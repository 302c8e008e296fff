"""TLS: the name in the URL is what is asked for and what is verified, and nothing less than TLS 1.2 will do."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import warnings
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from outlets.endpoint import LOOPBACK, OK, Peer, agrees, answers, endpoint, in_a_loop, names, posting

from billhook.errors import SettingsError
from billhook.outlets.webhooks.exchange import BODY_LIMIT
from billhook.outlets.webhooks.response import Response
from billhook.outlets.webhooks.trust import Trust


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def ca_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("authority") / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


def served_by(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)
    return context


async def response_to(context: ssl.SSLContext, ca_file: Path | None, host: str = "receiver.test") -> Response:
    async with endpoint(agrees, tls=context) as receiver, posting(ca_file=ca_file) as poster:
        response = await poster.post(receiver.url(host, "https"), {}, b"{}")
        assert len(receiver.requests) == (response.outcome == "2xx")
        return response


@in_a_loop
async def test_a_private_authority_is_trusted_if_its_file_is_given(authority: trustme.CA, ca_file: Path) -> None:
    context = served_by(authority.issue_cert("receiver.test"))
    assert (await response_to(context, ca_file)).outcome == "2xx"
    stranger = await response_to(context, None)
    assert (stranger.outcome, stranger.connected) == ("tls", False)
    assert str(stranger.error).startswith("the certificate is not valid: ")


@in_a_loop
async def test_the_name_is_what_is_asked_for_and_what_is_verified(authority: trustme.CA, ca_file: Path) -> None:
    context = served_by(authority.issue_cert("receiver.test"))
    asked = []
    context.sni_callback = lambda _, name, __: asked.append(name)
    async with endpoint(agrees, tls=context) as receiver, posting(ca_file=ca_file) as poster:
        first, second = [await poster.post(receiver.url(scheme="https"), {}, b"{}") for _ in range(2)]
        assert (first.outcome, second.outcome) == ("2xx", "2xx")
        assert (first.connected, second.connected, receiver.connections) == (True, False, 1)
        assert receiver.requests[0].headers["host"] == f"receiver.test:{receiver.port}"
    assert asked == ["receiver.test"]


@in_a_loop
async def test_a_certificate_for_another_name_is_not_valid(authority: trustme.CA, ca_file: Path) -> None:
    response = await response_to(served_by(authority.issue_cert("another.test")), ca_file)
    assert response.outcome == "tls"
    assert "receiver.test" in str(response.error)


@in_a_loop
async def test_an_address_in_a_url_must_be_in_the_certificate(authority: trustme.CA, ca_file: Path) -> None:
    by_name = await response_to(served_by(authority.issue_cert("receiver.test")), ca_file, "127.0.0.1")
    by_address = await response_to(served_by(authority.issue_cert("127.0.0.1")), ca_file, "127.0.0.1")
    assert (by_name.outcome, by_address.outcome) == ("tls", "2xx")


@in_a_loop
async def test_an_expired_certificate_is_not_valid(authority: trustme.CA, ca_file: Path) -> None:
    past = datetime(2020, 1, 1, tzinfo=UTC), datetime(2020, 2, 1, tzinfo=UTC)
    expired = authority.issue_cert("receiver.test", not_before=past[0], not_after=past[1])
    response = await response_to(served_by(expired), ca_file)
    assert response.outcome == "tls"
    assert "expired" in str(response.error)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
@in_a_loop
async def test_an_old_tls_is_none(authority: trustme.CA, ca_file: Path, version: ssl.TLSVersion) -> None:
    context = served_by(authority.issue_cert("receiver.test"))
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = version
    context.set_ciphers("ALL:@SECLEVEL=0")

    def serve(listening: socket.socket) -> None:
        """Without asyncio, whose server closes before it has said why."""
        accepted, _ = listening.accept()
        with accepted, pytest.raises(ssl.SSLError):
            context.wrap_socket(accepted, server_side=True)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = asyncio.create_task(asyncio.to_thread(serve, listening))
        async with posting(ca_file=ca_file) as poster:
            url = f"https://receiver.test:{listening.getsockname()[1]}/"
            response = await poster.post(url, {}, b"{}")
        await serving
    assert (response.outcome, "protocol version" in str(response.error)) == ("tls", True)


@in_a_loop
async def test_an_endpoint_that_wants_a_certificate_of_ours_is_a_matter_of_tls(
    authority: trustme.CA, ca_file: Path
) -> None:
    context = served_by(authority.issue_cert("receiver.test"))
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context.maximum_version = version
        assert (await response_to(context, ca_file)).outcome in ("tls", "reset")


@in_a_loop
async def test_plain_http_where_tls_is_due_is_a_matter_of_tls(ca_file: Path) -> None:
    async def answers_at_once(peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 400 The plain HTTP request was sent to HTTPS port\r\n\r\n")
        await peer.gone()

    async with endpoint(answers_at_once) as receiver, posting(ca_file=ca_file) as poster:
        response = await poster.post(receiver.url(scheme="https"), {}, b"{}")
    assert response.outcome == "tls"


@in_a_loop
async def test_tls_where_plain_http_is_due_is_not_http(authority: trustme.CA) -> None:
    context = served_by(authority.issue_cert("receiver.test"))
    async with endpoint(agrees, tls=context) as receiver, posting() as poster:
        response = await poster.post(receiver.url(), {}, b"{}")
    assert response.outcome in ("protocol", "reset")


@pytest.mark.parametrize("how", ["closes", "resets"])
@in_a_loop
async def test_a_handshake_that_breaks_off_is_a_reset(how: str, ca_file: Path) -> None:
    async def story(peer: Peer) -> None:
        if how == "resets":
            peer.reset()

    async with endpoint(story) as receiver, posting(ca_file=ca_file) as poster:
        response = await poster.post(receiver.url(scheme="https"), {}, b"{}")
    assert (response.outcome, response.connected) == ("reset", False)


@in_a_loop
async def test_a_handshake_that_never_goes_on_ends_at_the_deadline(ca_file: Path) -> None:
    async with endpoint(Peer.gone) as receiver, posting(ca_file=ca_file) as poster:
        response = await poster.post(receiver.url(scheme="https"), {}, b"{}", deadline_seconds=0.5)
    assert (response.outcome, response.connected) == ("timeout", False)


@in_a_loop
async def test_and_at_the_latest_when_connecting_has_taken_too_long(ca_file: Path) -> None:
    async with endpoint(Peer.gone) as receiver, posting(ca_file=ca_file) as poster:
        response = await poster.post(receiver.url(scheme="https"), {}, b"{}", deadline_seconds=60)
    assert (response.outcome, response.error) == ("timeout", "no connection within 5 s")


@in_a_loop
async def test_an_endless_answer_ends_for_the_sender_at_once(authority: trustme.CA, ca_file: Path) -> None:
    sent = 0
    stopped = asyncio.Event()

    async def story(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
        try:
            while True:
                await peer.send(b"x" * 100_000)
                sent += 100_000
                await asyncio.sleep(0)  # drain does not wait for the news that the connection is gone
        finally:
            stopped.set()

    context = served_by(authority.issue_cert("receiver.test"))
    async with endpoint(story, tls=context) as receiver, posting(ca_file=ca_file) as poster:
        response = await poster.post(receiver.url(scheme="https"), {}, b"{}")
        await asyncio.wait_for(stopped.wait(), 60)
    assert (response.outcome, len(response.body)) == ("2xx", BODY_LIMIT)
    assert sent < 50_000_000


@in_a_loop
async def test_a_connection_is_closed_without_waiting_for_a_goodbye(authority: trustme.CA, ca_file: Path) -> None:
    context = served_by(authority.issue_cert("receiver.test"))

    def serve(listening: socket.socket) -> bytes:
        accepted, _ = listening.accept()
        with (
            context.wrap_socket(accepted, server_side=True) as peer,
            socket.socket(fileno=os.dup(peer.fileno())) as raw,
        ):
            received = b""
            while not received.endswith(b"\r\n\r\n{}"):
                received += peer.recv(65536)
            peer.sendall(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            while alert := raw.recv(65536):  # libcurl says goodbye, and closes without hearing one
                received = alert
            return alert

    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = asyncio.create_task(asyncio.to_thread(serve, listening))
        async with posting(ca_file=ca_file) as poster:
            url = f"https://receiver.test:{listening.getsockname()[1]}/"
            assert (await poster.post(url, {}, b"{}")).outcome == "2xx"
            assert await serving == b""


@in_a_loop
async def test_an_answer_of_a_given_length_is_read_over_tls(authority: trustme.CA, ca_file: Path) -> None:
    context = served_by(authority.issue_cert("receiver.test"))
    async with endpoint(answers(OK), tls=context) as receiver, posting(ca_file=ca_file) as poster:
        assert (await poster.post(receiver.url(scheme="https"), {}, b"{}")).body == b"ok"


@in_a_loop
async def test_of_two_names_at_one_address_neither_borrows_the_others_connection(
    authority: trustme.CA, ca_file: Path
) -> None:
    here = names({"a.test": ["127.0.0.1"], "b.test": ["127.0.0.1"]})
    context = served_by(authority.issue_cert("a.test"))
    async with endpoint(agrees, tls=context) as receiver, posting(LOOPBACK, ca_file=ca_file, lookup=here) as poster:
        assert (await poster.post(receiver.url("a.test", "https"), {}, b"{}")).outcome == "2xx"
        assert (await poster.post(receiver.url("b.test", "https"), {}, b"{}")).outcome == "tls"


@in_a_loop
async def test_a_certificate_that_has_only_a_common_name_is_not_valid(tmp_path: Path) -> None:
    context, ca_file = nameless(tmp_path)
    response = await response_to(context, ca_file)
    assert (response.outcome, response.error) == (
        "tls",
        "the certificate is not valid: it has no subject alternative name (SAN)",
    )


def nameless(directory: Path) -> tuple[ssl.SSLContext, Path]:
    """A server whose certificate says whose it is in its common name alone, and the authority that says so."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "receiver.test")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2100, 1, 1, tzinfo=UTC))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (directory / "cert.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (directory / "key.pem").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(directory / "cert.pem", directory / "key.pem")
    return context, directory / "cert.pem"


def test_the_systems_authorities_stay_trusted_beside_the_file(ca_file: Path) -> None:
    def count(trust: Trust) -> int:
        found = Path(trust.path).read_text().count("BEGIN CERTIFICATE")
        trust.close()
        return found

    assert count(Trust(ca_file)) == count(Trust(None)) + 1


@pytest.mark.parametrize("content", [None, "", "no certificate"])
def test_a_file_without_authorities_is_a_setting_to_correct(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SettingsError, match=r"ca\.pem does not hold certificates"):
        Trust(path)
