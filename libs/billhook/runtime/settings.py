"""Settings: read once from the environment (`BILLHOOK_…`) at the composition root, and handed down in slices."""

from __future__ import annotations

import difflib
import os
import re
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from sqlalchemy.engine import URL, make_url

from billhook.errors import SettingsError
from billhook.rules.invoicing_settings import Engine

Port = Annotated[int, Field(ge=0, le=65535)]

PORTS_BY_NAME = range(8700, 8900)
"""Where services listen that have no setting below."""

SETTINGS_FILE: Final = "settings.env"
"""Under `var`: lines `BILLHOOK_…=…`. What runs on this machine and the commands typed beside it see the same."""

SHORTEST_KEPT_EVENTS: Final = 60
"""Days."""

SHORTEST_OPERATOR_KEY: Final = 20
"""Characters. Whoever tries keys must not get there."""


class _ServicePorts(PydanticBaseSettingsSource):
    """`BILLHOOK_<NAME>_PORT` for any name: a folder under `services/` is a service, and needs no setting declared."""

    def __call__(self) -> dict[str, Any]:
        named = (re.fullmatch(r"BILLHOOK_(\w+_PORT)", name) for name in os.environ)
        return {match[1].lower(): value for match in named if match and (value := os.environ[match[0]])}

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        raise NotImplementedError  # asked for by sources that go field by field


class Settings(BaseSettings):
    """Every setting, with its default. The defaults run the whole product on one machine."""

    # An empty variable counts as none: that is what is left of a line in an .env file that nobody filled in.
    model_config = SettingsConfigDict(env_prefix="BILLHOOK_", extra="allow", frozen=True, env_ignore_empty=True)

    __pydantic_extra__: dict[str, Port]
    """The ports of services that have no setting below."""

    var: Path = Field(Path("var"), description="Where the embedded defaults keep their data.")
    database_url: str = Field("", description="SQLite or PostgreSQL. Default: sqlite:///<var>/billhook.db")
    queue_url: SecretStr = Field(
        SecretStr(""), description="Redis or Valkey, redis://…. Default: an embedded Valkey under <var>/valkey."
    )
    objects_url: str = Field(
        "",
        description="Where documents are kept: file:///… or s3://bucket/prefix?endpoint=https://…&region=…; with"
        " `&presign=false` the desk hands files out itself.",
    )
    encryption_keys: SecretStr = Field(
        SecretStr(""),
        description="Keys that seal secrets at rest, comma-separated, the current one first. Default: one is made in"
        " <var>/encryption.key.",
    )
    operator_key: SecretStr = Field(
        SecretStr(""), description="A bearer key for all merchants at the desk, beside those made by `billhook keys`."
    )
    host: str = Field("127.0.0.1", description="The address servers bind to.")
    ingress_port: Port = Field(8600, description="Where senders post events.")
    desk_port: Port = Field(8601, description="The operators' API.")
    public_url: str = Field(
        "", description="Where customers reach the desk: links to hosted invoices begin with it. Default: its own port."
    )
    ingress_url: str = Field(
        "",
        description="Where senders reach the ingress: the addresses of sources, which Stripe is given, begin with it."
        " Default: its own port.",
    )
    bookkeeper_port: Port = Field(8610, description="/livez /readyz /metrics of the bookkeeper.")
    invoicer_port: Port = Field(8611, description="/livez /readyz /metrics of the invoicer.")
    courier_port: Port = Field(8612, description="/livez /readyz /metrics of the courier.")
    relay_port: Port = Field(8613, description="/livez /readyz /metrics of the relay.")
    dunner_port: Port = Field(8614, description="/livez /readyz /metrics of the dunner.")
    provider_calls_per_second: float = Field(
        20.0,
        description="How many calls a second are made to one account of a provider, by all processes together.",
        gt=0,
    )
    reconciler_port: Port = Field(8615, description="/livez /readyz /metrics of the reconciler.")
    allowed_networks: str = Field(
        "",
        description="Networks (CIDRs, comma-separated) that endpoints may be in although they are private, e.g."
        " 10.0.0.0/8. Everything private is refused otherwise.",
    )
    allow_http: bool = Field(False, description="Let endpoints be http:// too. Messages are then not encrypted.")
    message_limit_kib: int = Field(
        64, description="The largest body of `POST /v1/messages`, in KiB: 64 to 1024.", ge=64, le=1024
    )
    endpoints_per_merchant: int = Field(
        50, description="How many endpoints a merchant may have. Every event is sent to each that wants it.", ge=1
    )
    sources_per_merchant: int = Field(50, description="How many sources a merchant may have.", ge=1)
    templates_per_merchant: int = Field(100, description="How many templates of its own a merchant may have.", ge=1)
    drafts_per_merchant: int = Field(10_000, description="How many invoices a merchant may have in draft.", ge=1)
    keys_per_merchant: int = Field(100, description="How many keys a merchant may have.", ge=1)
    replays_per_merchant: int = Field(10, description="How many replays a merchant may have under way.", ge=1)
    requests_per_second: float = Field(
        1000.0, description="How many requests a second a merchant may make, to each desk. More are answered 429.", gt=0
    )
    ca_file: Path | None = Field(None, description="Certificates (PEM) to trust besides the system's, for endpoints.")
    mail_url: SecretStr = Field(
        SecretStr(""), description="smtp://user:password@host:587 or smtps://… Default: files in <var>/mail."
    )
    mail_from: str = Field(
        "billhook@localhost",
        description="The sender of mails. Those to customers have the merchant's name before this address.",
    )
    mails_per_day: int = Field(
        1000, description="How many mails go out for a merchant in 24 hours. What is over that waits.", ge=1
    )
    mail_to_anyone: bool = Field(
        False, description="Let merchants' keys mail documents to other addresses than the buyer's too."
    )
    pdf_engine: Engine = Field(
        "auto",
        description="What draws documents: wkhtmltopdf or typst, whatever merchants wish; auto leaves it to them, and"
        " then takes Typst. Merchants' own templates are always drawn by wkhtmltopdf.",
    )
    keep_attempts_days: int = Field(
        30, description="Delivery attempts older than this are deleted. 0 keeps them.", ge=0
    )
    keep_messages_days: int = Field(
        90,
        description="Bodies of messages older than this are deleted, and what was not delivered by then is given up."
        " 0 keeps them.",
        ge=0,
    )
    keep_deliveries_days: int = Field(
        180,
        description="Deliveries that are over are deleted when they are older than this, and than bodies are kept."
        " 0 keeps them.",
        ge=0,
    )
    keep_events_days: int = Field(
        400,
        description="Events of the inbox that are over (with no open dead letter) are deleted when they are older than"
        " this (60 at least); so are the messages that came of them. 0 keeps them.",
        ge=0,
    )
    keep_mails_days: int = Field(400, description="Mails older than this are deleted. 0 keeps them.", ge=0)
    keep_documents_days: int = Field(
        0,
        description="Documents older than this are deleted, their files too. 0, the default, keeps them: laws want"
        " invoices for up to ten years after the one they are of (4018 days are eleven years).",
        ge=0,
    )
    keep_records_days: int = Field(
        400,
        description="Dead letters that were dealt with, replays and reconciliations that are over, findings that are"
        " settled, steps of dunning cases that are closed, entries of the audit log, and expired links are deleted when"
        " they are older than this. 0 keeps them.",
        ge=0,
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "warning", description="debug, info, warning or error."
    )
    traces_url: str = Field(
        "",
        description="Where traces go, by OTLP over HTTP: http://collector:4318/v1/traces. Needs the extra"
        " `billhook[tracing]`. Default: there are none.",
    )
    drain_seconds: float = Field(
        25.0, description="How long a process may finish what it has in hand after SIGTERM.", gt=0
    )

    @property
    def database(self) -> str:
        return self.database_url or f"sqlite:///{self.var.absolute() / 'billhook.db'}"

    @property
    def objects(self) -> str:
        return self.objects_url or f"file://{self.var.absolute() / 'objects'}"

    @property
    def public(self) -> str:
        return self.public_url.rstrip("/") or self.address_of("desk")

    @property
    def ingress(self) -> str:
        return self.ingress_url.rstrip("/") or self.address_of("ingress")

    def address_of(self, service: str) -> str:
        """Where a service is reached from this machine. Who listens everywhere is reached here too."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::", "*") else self.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port_of(service)}"

    def source_address(self, source_id: str) -> str:
        """Where a source's events are posted."""
        return f"{self.ingress}/v1/sources/{source_id}/events"

    @property
    def embedded_queue(self) -> bool:
        return not self.queue_url.get_secret_value()

    def port_of(self, service: str) -> int:
        """Where a service serves, or is asked how it is: as set, or else its default."""
        return int(getattr(self, f"{service}_port", default_port(service)))

    def port_is_given(self, service: str) -> bool:
        """Whether somebody chose the port, and will look for the service there."""
        return f"{service}_port" in self.model_fields_set

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], *sources: PydanticBaseSettingsSource, **more: PydanticBaseSettingsSource
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (*sources, *more.values(), _ServicePorts(settings_cls))

    def shown(self) -> dict[str, str]:
        """All settings as they count, without secrets."""
        values: dict[str, Any] = self.model_dump()
        values["database_url"] = _without_password(self.database)
        values["objects_url"] = self.objects
        values["public_url"] = self.public
        values["ingress_url"] = self.ingress
        queue_url = self.queue_url.get_secret_value()
        values["queue_url"] = "embedded Valkey" if self.embedded_queue else _without_password(queue_url)
        values["traces_url"] = _without_password(self.traces_url) if self.traces_url else "no traces"
        mail_url = self.mail_url.get_secret_value()
        values["mail_url"] = _without_password(mail_url) if mail_url else f"file://{self.var.absolute() / 'mail'}"
        for name in ("encryption_keys", "operator_key"):
            values[name] = "set" if values[name].get_secret_value() else "not set"
        return {name: str(value) for name, value in values.items()}


def default_port(service: str) -> int:
    """The port that its setting names; where there is no setting, one made from its name, so that it is the same on
    every machine and stays while others come and go."""
    field = Settings.model_fields.get(f"{service}_port")
    return int(field.default if field else PORTS_BY_NAME[zlib.crc32(service.encode()) % len(PORTS_BY_NAME)])


def _without_password(url: str) -> str:
    """A password may stand before the host or among the options."""
    parsed = make_url(url)
    hidden = {name: "hidden" for name in parsed.query if "password" in name.lower()}
    return parsed.update_query_dict(hidden).render_as_string(hide_password=True)


def _read_url(setting: str, url: str) -> URL:
    try:
        return make_url(url)
    except Exception:
        # Neither the URL nor the error that quotes it: there may be a password in it.
        raise SettingsError(f"{setting} is not a URL: scheme://user:password@host:port/name.") from None


_NO_SETTINGS: Final = frozenset({"BILLHOOK_RECORDINGS"})
"""What begins as a setting does and is read by tests alone."""


def _refuse_misspelt(environment: Iterable[str]) -> None:
    """A setting that nobody reads would count for nothing, and look as if it did."""
    known = {f"BILLHOOK_{name.upper()}" for name in Settings.model_fields} | _NO_SETTINGS
    for name in sorted(environment):
        if name.startswith("BILLHOOK_") and name not in known and not name.endswith("_PORT"):
            near = difflib.get_close_matches(name, known, 1)
            meant = f" Did you mean {near[0]}?" if near else ""
            raise SettingsError(f"There is no setting {name}.{meant} docs/settings.md lists them all.")


def read_settings(**overrides: Any) -> Settings:
    """The settings of this process: of the environment, then of the file under `var`. Raises `SettingsError` naming
    each that cannot work."""
    _refuse_misspelt(os.environ)
    var = Path(overrides.get("var") or os.environ.get("BILLHOOK_VAR") or Settings.model_fields["var"].default)
    try:
        settings = Settings(_env_file=var / SETTINGS_FILE, **overrides)  # type: ignore[call-arg]
    except ValidationError as error:
        lines = (f"BILLHOOK_{str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors())
        raise SettingsError("Settings that cannot work:\n  " + "\n  ".join(lines)) from error
    backend = _read_url("BILLHOOK_DATABASE_URL", settings.database).get_backend_name()
    if not settings.embedded_queue:
        _read_url("BILLHOOK_QUEUE_URL", settings.queue_url.get_secret_value())
    if 0 < settings.keep_events_days < SHORTEST_KEPT_EVENTS:
        raise SettingsError(
            f"BILLHOOK_KEEP_EVENTS_DAYS must be {SHORTEST_KEPT_EVENTS} at least, or 0: providers send events again, and"
            " the reconciler asks for them, for weeks."
        )
    operator_key = settings.operator_key.get_secret_value()
    if operator_key and len(operator_key) < SHORTEST_OPERATOR_KEY:
        raise SettingsError(
            f"BILLHOOK_OPERATOR_KEY must have at least {SHORTEST_OPERATOR_KEY} characters: it opens everything"
            " (`openssl rand -hex 24` makes one)."
        )
    for name, address in (("PUBLIC", settings.public), ("INGRESS", settings.ingress)):
        if not re.fullmatch(r"https?://[^/?#\s]+(/[^?#\s]*)?", address):
            raise SettingsError(
                f"BILLHOOK_{name}_URL must be an address to put paths behind, such as https://bills.example."
            )
    if settings.traces_url and not re.fullmatch(r"https?://[^/?#\s]+(/\S*)?", settings.traces_url):
        raise SettingsError(
            "BILLHOOK_TRACES_URL must be the address of a collector, such as http://collector:4318/v1/traces."
        )
    if backend not in ("sqlite", "postgresql"):
        raise SettingsError(
            f"BILLHOOK_DATABASE_URL names {backend!r}; billhook keeps its ledger in SQLite (sqlite:///path) or"
            " PostgreSQL (postgresql+psycopg://…)."
        )
    return settings
