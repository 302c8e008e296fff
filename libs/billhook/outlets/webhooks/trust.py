"""The certificates of authorities that endpoints are verified with: the system's, and those of a file."""

from __future__ import annotations

import ssl
import tempfile
from pathlib import Path

from billhook.errors import SettingsError

_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Alpine
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, Red Hat
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",  # macOS, the BSDs
)


class Trust:
    """A file of all authorities to trust. libcurl's wheel brings none, and parses a file once for all connections,
    where it would parse the same bytes handed over in memory for each."""

    def __init__(self, ca_file: Path | None) -> None:
        """Raises `SettingsError` if `ca_file` is no use."""
        system = _system_bundle()
        self._made = None
        if ca_file is None and system is not None:
            self.path = str(system)
            return
        self._made = tempfile.NamedTemporaryFile(prefix="billhook-authorities-", suffix=".pem")  # noqa: SIM115
        if system is not None:
            self._made.write(system.read_bytes() + b"\n")
        if ca_file is not None:
            self._made.write(_authorities(ca_file))
        self._made.flush()
        self.path = self._made.name

    def close(self) -> None:
        if self._made is not None:
            self._made.close()


def _system_bundle() -> Path | None:
    known = ssl.get_default_verify_paths().cafile
    return next((Path(path) for path in (known, *_BUNDLES) if path and Path(path).is_file()), None)


def _authorities(ca_file: Path) -> bytes:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(ca_file)
        return ca_file.read_bytes()
    except OSError as error:  # not there, not readable, not PEM
        raise SettingsError(f"{ca_file} does not hold certificates of authorities in PEM: {error}") from None
