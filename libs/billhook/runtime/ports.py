"""Where a service listens, and what is said where it cannot."""

from __future__ import annotations

import errno
import logging
import socket

from billhook.errors import SettingsError
from billhook.runtime.settings import Settings
from billhook.runtime.valkey import free_port

log = logging.getLogger(__name__)


def listening_port(settings: Settings, service: str) -> int:
    """The port that is set. Where none is, its usual one, or another if somebody has that: a second courier on a
    machine is not to be configured. Raises `SettingsError`."""
    try:
        check_port(settings, service)
    except SettingsError as taken:
        if settings.port_is_given(service) or not _in_use(taken.__cause__):
            raise
        port = free_port()
        log.warning(
            "another program has the usual port, so another was picked",
            extra={"port": port, "usual": settings.port_of(service)},
        )
        return port
    return settings.port_of(service)


def check_port(settings: Settings, service: str) -> None:
    """Raises `SettingsError`, naming the setting, where the service could not listen now."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port_of(service), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            # As servers do: a port whose last connections are still fading away can be had.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise cannot_listen(settings, service, error) from error


def cannot_listen(settings: Settings, service: str, error: OSError) -> SettingsError:
    where = f"The {service} cannot listen on {settings.host}:{settings.port_of(service)}"
    port = f"BILLHOOK_{service.upper()}_PORT"
    if _in_use(error):
        return SettingsError(f"{where}: another program has that port. Set {port} to a free one.")
    return SettingsError(f"{where}: {error.strerror}. BILLHOOK_HOST and {port} say where.")


def _in_use(error: BaseException | None) -> bool:
    return isinstance(error, OSError) and error.errno == errno.EADDRINUSE
