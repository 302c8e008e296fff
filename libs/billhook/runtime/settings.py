"""Settings: read once from the environment (`BILLHOOK_…`) at the composition root, and handed down in slices."""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from billhook.errors import SettingsError
from billhook.rules.engine import ENGINES, Engine
from billhook.runtime.setting_values import (
    Secret,
    above_nothing,
    networks,
    one_of,
    path,
    path_if_any,
    port,
    read_file,
    secret,
    setting,
    switch,
    text,
    whole,
)

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

LogLevel = Literal["debug", "info", "warning", "error"]

PORTS_BY_NAME = range(8700, 8900)
"""Where services listen that have no setting below."""

SETTINGS_FILE: Final = "settings.env"
"""Under `var`: lines `BILLHOOK_…=…`. What runs on this machine and the commands typed beside it see the same."""

SHORTEST_KEPT_EVENTS: Final = 60
"""Days."""

SHORTEST_OPERATOR_KEY: Final = 20
"""Characters. Whoever tries keys must not get there."""


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Settings:
    """Every setting, with its default. The defaults run the whole product on one machine."""

    var: Path = setting(path, Path("var"), "Where the embedded defaults keep their data.")
    database_url: str = setting(text, "", "SQLite or PostgreSQL. Default: sqlite:///<var>/billhook.db")
    queue_url: Secret = setting(
        secret,
        Secret(""),
        "Redis or Valkey, redis://…. Default: an embedded Valkey under <var>/valkey.",
    )
    objects_url: str = setting(
        text,
        "",
        "Where documents are kept: file:///… or s3://bucket/prefix?endpoint=https://…&region=…; with"
        " `&presign=false` the desk hands files out itself.",
    )
    encryption_keys: Secret = setting(
        secret,
        Secret(""),
        "Keys that seal secrets at rest, comma-separated, the current one first. Default: one is made in"
        " <var>/encryption.key.",
    )
    operator_key: Secret = setting(
        secret,
        Secret(""),
        "A bearer key for all merchants at the desk, beside those made by `billhook keys`.",
    )
    host: str = setting(text, "127.0.0.1", "The address servers bind to.")
    ingress_port: int = setting(port, 8600, "Where senders post events.")
    desk_port: int = setting(port, 8601, "The operators' API.")
    public_url: str = setting(
        text,
        "",
        "Where customers reach the desk: links to hosted invoices begin with it. Default: its own port.",
    )
    ingress_url: str = setting(
        text,
        "",
        "Where senders reach the ingress: the addresses of sources, which Stripe is given, begin with it."
        " Default: its own port.",
    )
    bookkeeper_port: int = setting(port, 8610, "/livez /readyz /metrics of the bookkeeper.")
    invoicer_port: int = setting(port, 8611, "/livez /readyz /metrics of the invoicer.")
    courier_port: int = setting(port, 8612, "/livez /readyz /metrics of the courier.")
    relay_port: int = setting(port, 8613, "/livez /readyz /metrics of the relay.")
    dunner_port: int = setting(port, 8614, "/livez /readyz /metrics of the dunner.")
    provider_calls_per_second: float = setting(
        above_nothing,
        20.0,
        "How many calls a second are made to one account of a provider, by all processes together.",
    )
    reconciler_port: int = setting(port, 8615, "/livez /readyz /metrics of the reconciler.")
    trusted_proxies: str = setting(
        networks,
        "",
        "Networks (CIDRs, comma-separated) of reverse proxies whose X-Forwarded-For is believed, where tries at the"
        " desk are counted by address. Default: none, so that all who come by one proxy share its tries.",
    )
    allowed_networks: str = setting(
        networks,
        "",
        "Networks (CIDRs, comma-separated) that endpoints may be in although they are private, e.g."
        " 10.0.0.0/8. Everything private is refused otherwise.",
    )
    allow_http: bool = setting(switch, False, "Let endpoints be http:// too. Messages are then not encrypted.")
    message_limit_kib: int = setting(
        whole(64, 1024),
        64,
        "The largest body of `POST /v1/messages`, in KiB: 64 to 1024.",
    )
    endpoints_per_merchant: int = setting(
        whole(1),
        50,
        "How many endpoints a merchant may have. Every event is sent to each that wants it.",
    )
    sources_per_merchant: int = setting(whole(1), 50, "How many sources a merchant may have.")
    templates_per_merchant: int = setting(whole(1), 100, "How many templates of its own a merchant may have.")
    drafts_per_merchant: int = setting(whole(1), 10_000, "How many invoices a merchant may have in draft.")
    keys_per_merchant: int = setting(whole(1), 100, "How many keys a merchant may have.")
    replays_per_merchant: int = setting(whole(1), 10, "How many replays a merchant may have under way.")
    requests_per_second: float = setting(
        above_nothing,
        1000.0,
        "How many requests a second a merchant may make, to each desk. More are answered 429.",
    )
    ca_file: Path | None = setting(
        path_if_any,
        None,
        "Certificates (PEM) to trust besides the system's, for endpoints.",
    )
    mail_url: Secret = setting(
        secret,
        Secret(""),
        "smtp://user:password@host:587 or smtps://… Default: files in <var>/mail.",
    )
    mail_from: str = setting(
        text,
        "billhook@localhost",
        "The sender of mails. Those to customers have the merchant's name before this address.",
    )
    mails_per_day: int = setting(
        whole(1),
        1000,
        "How many mails go out for a merchant in 24 hours. What is over that waits.",
    )
    mail_to_anyone: bool = setting(
        switch,
        False,
        "Let merchants' keys mail documents to other addresses than the buyer's too.",
    )
    pdf_engine: Engine = setting(
        one_of(*ENGINES),
        "auto",
        "What draws documents: wkhtmltopdf or typst, whatever merchants wish; auto leaves it to them, and"
        " then takes Typst. Merchants' own templates are always drawn by wkhtmltopdf.",
    )
    keep_attempts_days: int = setting(whole(0), 30, "Delivery attempts older than this are deleted. 0 keeps them.")
    keep_messages_days: int = setting(
        whole(0),
        90,
        "Bodies of messages older than this are deleted, and what was not delivered by then is given up. 0 keeps them.",
    )
    keep_deliveries_days: int = setting(
        whole(0),
        180,
        "Deliveries that are over are deleted when they are older than this, and than bodies are kept. 0 keeps them.",
    )
    keep_events_days: int = setting(
        whole(0),
        400,
        "Events of the inbox that are over (with no open dead letter) are deleted when they are older than"
        " this (60 at least); so are the messages that came of them. 0 keeps them.",
    )
    keep_mails_days: int = setting(whole(0), 400, "Mails older than this are deleted. 0 keeps them.")
    keep_documents_days: int = setting(
        whole(0),
        0,
        "Documents older than this are deleted, their files too. 0, the default, keeps them: laws want"
        " invoices for up to ten years after the one they are of (4018 days are eleven years).",
    )
    keep_records_days: int = setting(
        whole(0),
        400,
        "Dead letters that were dealt with, replays and reconciliations that are over, findings that are"
        " settled, steps of dunning cases that are closed, entries of the audit log, and expired links are deleted when"
        " they are older than this. 0 keeps them.",
    )
    log_level: LogLevel = setting(one_of(*get_args(LogLevel)), "warning", "debug, info, warning or error.")
    traces_url: str = setting(
        text,
        "",
        "Where traces go, by OTLP over HTTP: http://collector:4318/v1/traces. Needs the extra"
        " `billhook[tracing]`. Default: there are none.",
    )
    drain_seconds: float = setting(
        above_nothing,
        25.0,
        "How long a process may finish what it has in hand after SIGTERM.",
    )

    other_ports: Mapping[str, int] = field(default_factory=dict)
    """Of services that have no setting above: a folder under `services/` is a service, and needs none declared."""
    given: frozenset[str] = frozenset()
    """Which of them somebody chose."""

    def __post_init__(self) -> None:
        """Raises `SettingsError` naming each that cannot work."""
        problems = []
        for name, declared in SETTINGS.items():
            try:
                object.__setattr__(self, name, declared.metadata["read"](getattr(self, name)))
            except ValueError as problem:
                problems.append(f"\n  {variable(name)} {problem}.")
        if problems:
            raise SettingsError("Settings that cannot work:" + "".join(problems))

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
        name = f"{service}_port"
        return int(getattr(self, name) if name in SETTINGS else self.other_ports.get(name, default_port(service)))

    def port_is_given(self, service: str) -> bool:
        """Whether somebody chose the port, and will look for the service there."""
        return f"{service}_port" in self.given

    def shown(self) -> dict[str, str]:
        """All settings as they count, without secrets."""
        values: dict[str, Any] = {name: getattr(self, name) for name in SETTINGS} | dict(self.other_ports)
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


SETTINGS: Final[Mapping[str, dataclasses.Field[Any]]] = MappingProxyType(
    {each.name: each for each in dataclasses.fields(Settings) if each.metadata}
)
"""Every setting by its name."""


def variable(name: str) -> str:
    """What a setting is called in the environment."""
    return f"BILLHOOK_{name.upper()}"


def default_port(service: str) -> int:
    """The port that its setting names; where there is no setting, one made from its name, so that it is the same on
    every machine and stays while others come and go."""
    declared = SETTINGS.get(f"{service}_port")
    by_name = PORTS_BY_NAME[zlib.crc32(service.encode()) % len(PORTS_BY_NAME)]
    return by_name if declared is None else port(declared.default)


def _without_password(url: str) -> str:
    """A password may stand before the host or among the options."""
    from sqlalchemy.engine import make_url

    parsed = make_url(url)
    hidden = {name: "hidden" for name in parsed.query if "password" in name.lower()}
    return parsed.update_query_dict(hidden).render_as_string(hide_password=True)


def _read_url(setting: str, url: str) -> URL:
    from sqlalchemy.engine import make_url

    try:
        return make_url(url)
    except Exception:
        # Neither the URL nor the error that quotes it: there may be a password in it.
        raise SettingsError(f"{setting} is not a URL: scheme://user:password@host:port/name.") from None


_NO_SETTINGS: Final = frozenset({"BILLHOOK_RECORDINGS"})
"""What begins as a setting does and is read by tests alone."""


def _filled(variables: Mapping[str, str]) -> dict[str, str]:
    """The settings among variables. One that is empty counts as none: that is what is left of a line in an .env file
    that nobody filled in. One that nobody reads would count for nothing, and look as if it did: it is refused."""
    known = set(map(variable, SETTINGS))
    filled = {}
    for name in sorted(variables.keys() - _NO_SETTINGS):
        if not name.startswith("BILLHOOK_"):
            continue
        if name not in known and not re.fullmatch(r"BILLHOOK_\w+_PORT", name):
            near = difflib.get_close_matches(name, known, 1)
            meant = f" Did you mean {near[0]}?" if near else ""
            raise SettingsError(f"There is no setting {name}.{meant} docs/settings.md lists them all.")
        if variables[name]:
            filled[name] = variables[name]
    return filled


def _port(name: str, value: Any) -> int:
    try:
        return port(value)
    except ValueError as problem:
        raise SettingsError(f"Settings that cannot work:\n  {variable(name)} {problem}.") from None


def read_settings(**overrides: Any) -> Settings:
    """The settings of this process: of the environment, then of the file under `var`. Raises `SettingsError` naming
    each that cannot work."""
    environment = _filled(os.environ)
    var = Path(overrides.get("var") or environment.get("BILLHOOK_VAR") or "var")
    variables = _filled(read_file(var / SETTINGS_FILE)) | environment
    chosen = {name.removeprefix("BILLHOOK_").lower(): value for name, value in variables.items()} | overrides
    others = {name for name in chosen if name.endswith("_port") and name not in SETTINGS}
    ports = {name: _port(name, chosen[name]) for name in sorted(others)}
    declared = {name: value for name, value in chosen.items() if name not in others}
    settings = Settings(**declared, other_ports=ports, given=frozenset(chosen))
    backend = "sqlite"
    if settings.database_url:
        backend = _read_url("BILLHOOK_DATABASE_URL", settings.database_url).get_backend_name()
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
