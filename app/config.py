"""What an operator may set, by environment variable (prefix MOEPLACE_) or command-line option."""

import ipaddress
import re
from enum import StrEnum
from pathlib import Path
from typing import Self

from platformdirs import user_data_path
from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

_HOST = re.compile(r"[A-Za-z0-9._-]+|\[?[0-9A-Fa-f:.]+\]?")


class LogFormat(StrEnum):
    CONSOLE = "console"
    JSON = "json"


class Settings(BaseSettings):
    """Settings of one process. What belongs to one cluster of nodes is in `ClusterSettings`, over HTTP."""

    model_config = SettingsConfigDict(env_prefix="MOEPLACE_", frozen=True)

    redis_url: str | None = Field(
        None,
        description="External Redis or Valkey (redis://, rediss://, valkey://, valkeys://, unix://), or a "
        "cluster of them (redis+cluster://HOST:PORT,HOST:PORT and so on). None starts the embedded server.",
    )
    data_dir: Path = Field(
        default_factory=lambda: user_data_path("moeplace"),
        description="Where the embedded server keeps its append-only file.",
    )
    embedded_server: Path | None = Field(
        None,
        description="Binary of the embedded server; None takes the bundled one, or one found on PATH.",
    )
    host: str = Field("127.0.0.1", description="Address the API listens on.")
    port: int = Field(8080, ge=0, le=65535, description="Port the API listens on; 0 takes a free one.")
    api_workers: int = Field(1, ge=1, le=64, description="API processes.")
    allow_unauthenticated: bool = Field(
        False, description="Take requests without tokens, on whatever address: the network is trusted."
    )
    allowed_hosts: str | None = Field(
        None,
        description="Names or addresses, separated by commas, by which browsers and clients may ask for the "
        "service while it wants no tokens, besides those of loopback and `host`.",
    )
    operator_token: SecretStr | None = Field(
        None,
        description="A secret of 32 characters or more that is an operator's token of all clusters: the one "
        "to begin with. Better kept in a file.",
    )
    operator_token_file: Path | None = Field(None, description="The same, in a file.")
    open_metrics: bool = Field(False, description="Answer /metrics without a token.")
    token_requests_per_second: int = Field(
        200,
        ge=0,
        le=1_000_000,
        description="What one token may ask of one API process; beyond: 429. 0: no limit.",
    )
    failed_authentications_per_minute: int = Field(
        30,
        ge=1,
        le=1_000_000,
        description="Wrong tokens taken from one address by one API process; beyond: 429.",
    )
    tls_certificate: Path | None = Field(
        None, description="Serve HTTPS: certificate chain, PEM. Read anew by a rolling restart."
    )
    tls_key: Path | None = Field(None, description="Its private key, PEM, without a password.")
    trusted_proxies: str | None = Field(
        None,
        description="Addresses or networks, separated by commas, of proxies whose X-Forwarded-For and "
        "X-Forwarded-Proto are believed.",
    )
    durable: bool = Field(
        False, description="Answer a write only once the server has it on disk (WAITAOF, Redis 7.2 or newer)."
    )
    log_format: LogFormat = Field(LogFormat.CONSOLE, description="console for people, json for collectors.")
    log_level: str = Field("info", description="debug, info, warning or error.")
    max_body_bytes: int = Field(16 << 20, ge=1024, description="Largest request body, as sent.")
    max_inflated_body_bytes: int = Field(64 << 20, ge=1024, description="Largest request body, inflated.")
    max_unfolded_bytes: int = Field(
        256 << 20, ge=1024, description="Telemetry a cluster may have waiting for its worker; beyond: 503."
    )
    max_requests: int = Field(
        256,
        ge=1,
        description="Requests one API process works on at once, without long polls. From half of it on, "
        "some more get 503 by chance, and beyond it all.",
    )
    max_held_bytes: int = Field(
        128 << 20, ge=1024, description="Bytes of bodies one API process holds at once; beyond: 503."
    )
    max_connections: int = Field(
        12_288, ge=1, description="Connections one API process keeps; beyond: 503 and closed."
    )
    max_waiters: int = Field(10_000, ge=0, description="Long polls one API process holds; beyond: 503.")
    max_clusters: int = Field(1000, ge=1, description="Clusters; registering one more is refused.")
    drain_seconds: float = Field(8.0, gt=0, le=60, description="What SIGTERM leaves for open requests.")
    worker_lease_seconds: float = Field(
        10.0, ge=1, le=300, description="A dead worker is replaced after this."
    )
    worker_tick_seconds: float = Field(0.5, ge=0.05, le=60, description="How often a worker folds and looks.")
    node_lease_seconds: float = Field(
        30.0, ge=1, le=3600, description="A node silent for this long counts as empty."
    )
    heartbeat_interval_seconds: float = Field(10.0, ge=0.1, description="How often nodes are told to report.")
    telemetry_interval_seconds: float = Field(10.0, ge=0.1, description="How often nodes are told to post.")

    @property
    def allowed_host_names(self) -> tuple[str, ...]:
        """Those of `allowed_hosts`, in small letters."""
        given = (name.strip().strip("[]").lower() for name in (self.allowed_hosts or "").split(","))
        return tuple(name for name in given if name)

    @field_validator("allowed_hosts")
    @classmethod
    def _are_hosts(cls, allowed: str | None) -> str | None:
        for name in allowed.split(",") if allowed else ():
            if not _HOST.fullmatch(name.strip()):
                raise ValueError(f"{name.strip()!r} is not a host: expected a name or address without port")
        return allowed

    @field_validator("trusted_proxies")
    @classmethod
    def _are_addresses(cls, trusted: str | None) -> str | None:
        for part in trusted.split(",") if trusted else ():
            try:
                ipaddress.ip_network(part.strip(), strict=False)
            except ValueError:
                raise ValueError(f"{part.strip()!r} is no address and no network") from None
        return trusted

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key: expected both or neither")
        if self.operator_token is not None and self.operator_token_file is not None:
            raise ValueError("operator_token and operator_token_file: expected one of them")
        if self.allow_unauthenticated and (self.operator_token or self.operator_token_file):
            raise ValueError(
                "allow_unauthenticated: with it no token is looked at, so expected no operator_token"
            )
        return self
