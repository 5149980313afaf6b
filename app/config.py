"""The settings of a process: environment variables with the prefix MOEPLACE_, or command-line options."""

import ipaddress
import re
from pathlib import Path
from typing import Self

from platformdirs import user_data_path
from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from moeplace_agent.logs import LogFormat

_HOST = re.compile(r"[A-Za-z0-9._-]+|\[?[0-9A-Fa-f:.]+\]?")


class Settings(BaseSettings):
    """Settings of one process. Those of one cluster of nodes are in `ClusterSettings`, set over HTTP."""

    model_config = SettingsConfigDict(env_prefix="MOEPLACE_", frozen=True)

    redis_url: str | None = Field(
        None,
        description="External Redis or Valkey (redis://, rediss://, valkey://, valkeys://, unix://), or a "
        "cluster of them (redis+cluster://HOST:PORT,HOST:PORT and so on). By default the embedded server is "
        "started.",
    )
    data_dir: Path = Field(
        default_factory=lambda: user_data_path("moeplace"),
        description="Where the embedded server keeps its append-only file.",
    )
    embedded_server: Path | None = Field(
        None,
        description="Binary of the embedded server. By default the bundled one, or one found on PATH.",
    )
    host: str = Field("127.0.0.1", description="Address the API listens on.")
    port: int = Field(8080, ge=0, le=65535, description="Port the API listens on; 0 chooses a free one.")
    api_workers: int = Field(1, ge=1, le=64, description="Number of API processes.")
    allow_unauthenticated: bool = Field(
        False,
        description="Accept requests without tokens on any address. Only for networks that are trusted.",
    )
    allowed_hosts: str | None = Field(
        None,
        description="Host names or addresses, separated by commas, that requests may name while no tokens "
        "are required, in addition to those of loopback and `host`.",
    )
    operator_token: SecretStr | None = Field(
        None,
        description="Token of an operator of all clusters: a secret of at least 32 characters, to issue the "
        "first tokens with. `operator_token_file` is safer.",
    )
    operator_token_file: Path | None = Field(None, description="File that contains the operator token.")
    open_metrics: bool = Field(False, description="Serve /metrics without a token.")
    token_requests_per_second: int = Field(
        200,
        ge=0,
        le=1_000_000,
        description="Requests per second of one token that one API process accepts; more get 429. "
        "0: no limit.",
    )
    failed_authentications_per_minute: int = Field(
        30,
        ge=1,
        le=1_000_000,
        description="Wrong tokens per minute and address that one API process accepts; more get 429.",
    )
    tls_certificate: Path | None = Field(
        None, description="Serve HTTPS with this certificate chain (PEM). Read again by a rolling restart."
    )
    tls_key: Path | None = Field(
        None, description="Private key of the certificate (PEM, without a password)."
    )
    trusted_proxies: str | None = Field(
        None,
        description="Addresses or networks, separated by commas, of the proxies whose X-Forwarded-For and "
        "X-Forwarded-Proto headers are trusted.",
    )
    durable: bool = Field(
        False, description="Answer a write only after Redis has it on disk (WAITAOF, Redis 7.2 or newer)."
    )
    log_format: LogFormat = Field(
        LogFormat.CONSOLE, description="console is for people, json for log collectors."
    )
    log_level: str = Field("info", description="debug, info, warning or error.")
    max_body_bytes: int = Field(16 << 20, ge=1024, description="Largest request body in bytes, as sent.")
    max_inflated_body_bytes: int = Field(
        64 << 20, ge=1024, description="Largest request body in bytes, decompressed."
    )
    max_unfolded_bytes: int = Field(
        256 << 20,
        ge=1024,
        description="Bytes of telemetry of one cluster that may wait for the worker; more get 503.",
    )
    max_requests: int = Field(
        256,
        ge=1,
        description="Requests that one API process handles at once, not counting long polls. Above this "
        "number all further ones get 503; above half of it, some chosen at random.",
    )
    max_held_bytes: int = Field(
        80 << 20,
        ge=1024,
        description="Bytes of request bodies that one API process holds at once; more get 503.",
    )
    max_connections: int = Field(
        12_288, ge=1, description="Connections of one API process; further ones get 503 and are closed."
    )
    max_waiters: int = Field(
        10_000, ge=0, description="Long polls that one API process holds; further ones get 503."
    )
    max_clusters: int = Field(1000, ge=1, description="Largest number of clusters.")
    drain_seconds: float = Field(
        8.0, gt=0, le=60, description="Time for open requests to finish after SIGTERM."
    )
    worker_lease_seconds: float = Field(
        10.0,
        ge=1,
        le=300,
        description="Lease of a worker: after this time without renewal, another worker takes over.",
    )
    worker_tick_seconds: float = Field(
        0.5, ge=0.05, le=60, description="Time between two rounds of a worker over a cluster."
    )
    node_lease_seconds: float = Field(
        30.0, ge=1, le=3600, description="Lease of a node: a node that is silent for longer counts as empty."
    )
    heartbeat_interval_seconds: float = Field(
        10.0, ge=0.1, description="Time between two heartbeats of a node."
    )
    telemetry_interval_seconds: float = Field(
        10.0, ge=0.1, description="Time between two telemetry posts of a node."
    )

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
                raise ValueError(f"{part.strip()!r} is not an address or a network") from None
        return trusted

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key: expected both or neither")
        if self.operator_token is not None and self.operator_token_file is not None:
            raise ValueError("operator_token and operator_token_file: expected one of them")
        if self.allow_unauthenticated and (self.operator_token or self.operator_token_file):
            raise ValueError(
                "allow_unauthenticated: tokens are not checked with it, so expected no operator_token"
            )
        return self
