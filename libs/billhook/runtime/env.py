"""The composition root: the one module that knows every adapter. Each is imported and opens on first use: a process
starts in half the time without those that it does not use."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy.engine import make_url

from billhook.errors import SettingsError
from billhook.rules.addresses import parse_networks
from billhook.runtime.clock import Clock, system_clock
from billhook.runtime.settings import Settings
from billhook.store.database import Database

if TYPE_CHECKING:
    from collections.abc import Sequence

    from billhook.documents.engines import Engines
    from billhook.metrics import Metrics
    from billhook.outlets.mail.mailer import Mailer
    from billhook.outlets.objects import Objects
    from billhook.outlets.webhooks.client import Reach
    from billhook.queue.bell import Bell
    from billhook.queue.broker import DoorbellBroker
    from billhook.rules.addresses import Network
    from billhook.runtime.provider_apis import ProviderApis
    from billhook.runtime.trials import Trials
    from billhook.store.vault import Vault
    from billhook.tracing import Tracing


class Env:
    """What a process has to work with. Closing it closes what was opened."""

    def __init__(self, settings: Settings, *, clock: Clock = system_clock, make: bool = True) -> None:
        """Without `make`, what is not there yet is missed and not made: a command that only looks leaves nothing behind
        where it happens to be run."""
        self.settings = settings
        self.makes = make
        self.clock = clock
        self.service = ""
        """Which service this process is; empty while it is none."""

    @cached_property
    def metrics(self) -> Metrics:
        from billhook.metrics import Metrics

        return Metrics()

    @cached_property
    def database(self) -> Database:
        if self.settings.database.startswith("sqlite"):
            self._find_ledger()
        # Nobody asks a command how long it waited.
        return Database(
            self.settings.database, waited=self.metrics.database_wait.observe if self.makes else lambda seconds: None
        )

    def _find_ledger(self) -> None:
        path = Path(make_url(self.settings.database).database or "")
        if self.makes:
            self.make_var()
        elif not path.exists():
            raise SettingsError(
                f"There is no ledger at {path}. `billhook up` or `billhook migrate` makes one; BILLHOOK_VAR or"
                " BILLHOOK_DATABASE_URL say where another one is."
            )

    def make_var(self) -> None:
        """The directory of the embedded defaults: the ledger, keys and documents in it are nobody else's to read."""
        var = self.settings.var
        try:
            var.mkdir(parents=True, exist_ok=True)
            with suppress(PermissionError):  # somebody else's, who lets us write there
                var.chmod(0o700)
            if not os.access(var, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            raise SettingsError(f"BILLHOOK_VAR cannot be worked in: {var}: {error.strerror}.") from None

    @cached_property
    def vault(self) -> Vault:
        from billhook.store.vault import Vault

        keys = self.settings.encryption_keys.get_secret_value()
        if not keys:
            path = self.encryption_key_file
            if not path.exists():
                raise SettingsError(
                    f"There is no encryption key: set BILLHOOK_ENCRYPTION_KEYS, or let `billhook up` make {path}."
                )
            keys = path.read_text()
        return Vault([key.strip() for key in keys.split(",") if key.strip()])

    @property
    def encryption_key_file(self) -> Path:
        return self.settings.var / "encryption.key"

    @property
    def lacks_encryption_key(self) -> bool:
        """Whether no key is set, and the embedded default's is still to be made."""
        return not self.settings.encryption_keys.get_secret_value() and not self.encryption_key_file.exists()

    def make_encryption_key(self) -> bool:
        """Make the embedded default's key if there is none; True if one was made."""
        if not self.lacks_encryption_key:
            return False
        from billhook.store.vault import new_key

        path = self.encryption_key_file
        self.make_var()
        path.touch(mode=0o600)
        path.write_text(new_key() + "\n")
        return True

    @cached_property
    def broker(self) -> DoorbellBroker:
        from billhook.queue.broker import DoorbellBroker

        url = self.settings.queue_url.get_secret_value()
        if not url:
            raise SettingsError(
                "BILLHOOK_QUEUE_URL is not set. `billhook up` starts a Valkey of its own and sets it for its services;"
                " a service run by itself needs the address of a Redis or Valkey (redis://host:port/0)."
            )
        try:
            return DoorbellBroker(_with_timeouts(url))
        except ValueError:  # what it says may hold a part of the password
            raise SettingsError(
                "BILLHOOK_QUEUE_URL is no address of a Redis or Valkey (redis://host:port/0), or has an option that"
                " redis-py does not know, or with a value that it does not take."
            ) from None

    @cached_property
    def bell(self) -> Bell:
        from billhook.queue.bell import Bell

        return Bell(self.broker, self.metrics)

    @cached_property
    def provider_apis(self) -> ProviderApis:
        from billhook.runtime.provider_apis import ProviderApis
        from billhook.runtime.provider_turns import Turns

        return ProviderApis(self.vault, Turns(self.database, self.clock, self.settings.provider_calls_per_second))

    @cached_property
    def template_trials(self) -> Trials:
        from billhook.runtime.trials import Trials

        return Trials()

    @cached_property
    def objects(self) -> Objects:
        from billhook.outlets.objects import open_objects

        return open_objects(self.settings.objects)

    @cached_property
    def engines(self) -> Engines:
        from billhook.documents.engines import Engines

        return Engines(self.settings.pdf_engine)

    @cached_property
    def reach(self) -> Reach:
        """Where endpoints may be."""
        from billhook.outlets.webhooks.client import Reach

        settings = self.settings
        return Reach(
            allowed=parse_networks(settings.allowed_networks), allow_http=settings.allow_http, ca_file=settings.ca_file
        )

    @cached_property
    def proxies(self) -> Sequence[Network]:
        """Of whom it is believed whom they ask for."""
        return parse_networks(self.settings.trusted_proxies)

    @cached_property
    def mailer(self) -> Mailer:
        from billhook.outlets.mail.mailer import open_mailer

        url = self.settings.mail_url.get_secret_value() or f"file://{self.settings.var.absolute() / 'mail'}"
        return open_mailer(url, self.settings.mail_from)

    @cached_property
    def tracing(self) -> Tracing | None:
        """None where no collector is set, and for commands: then nothing is imported for it."""
        url = self.settings.traces_url
        if not url or not self.service:
            return None
        try:
            from billhook.tracing import open_tracing
        except ImportError as error:
            raise SettingsError(
                f"BILLHOOK_TRACES_URL is set, and OpenTelemetry is not installed ({error}): install billhook[tracing]."
            ) from None
        return open_tracing(self.service, url)

    def close(self) -> None:
        opened = vars(self)
        if (tracing := opened.get("tracing")) is not None:
            tracing.close()
        if "engines" in opened:
            self.engines.close()
        if "bell" in opened:
            self.bell.close()
        if "broker" in opened:
            self.broker.close()
        if "database" in opened:
            self.database.close()


def _with_timeouts(url: str) -> str:
    """A silent Redis must not hold a thread: these options count only when they stand in the URL."""
    if "socket_timeout" in url:
        return url
    joint = "&" if "?" in url else "?"
    return f"{url}{joint}socket_timeout=2&socket_connect_timeout=1&health_check_interval=15"
