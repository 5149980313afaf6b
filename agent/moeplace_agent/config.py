"""node.yaml: what one node is, where it listens and whom it talks to."""

from __future__ import annotations

import os
import socket
import ssl
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from moeplace_agent.experts.fetching import ORIGIN
from moeplace_agent.holdings import is_id
from moeplace_agent.node import NodeConfig

TOKEN_VARIABLE = "MOEPLACE_TOKEN"
CA_VARIABLE = "MOEPLACE_CA_FILE"
_ONE_SECRET = "expected one secret, of ASCII letters, digits and signs without white space"


def ca_file_of_environment() -> Path | None:
    """Who signs the service's certificate, where the system does not know them. Raises `NodeFileError` for a
    file that holds none."""
    named = os.environ.get(CA_VARIABLE)
    return _authorities(Path(named), CA_VARIABLE) if named else None


def _authorities(path: Path, named: str) -> Path:
    try:
        ssl.create_default_context(cafile=str(path))
    except OSError as error:
        unread = not isinstance(error, ssl.SSLError) and error.strerror is not None
        reason = error.strerror if unread else "holds no certificates in PEM"
        raise NodeFileError(f"{named}: {path}: {reason}") from None
    return path


def _id(text: str) -> str:
    if not is_id(text):
        raise ValueError("expected an id (A-Z a-z 0-9 . _ -)")
    return text


_Identifier = Annotated[str, AfterValidator(_id)]
_HttpUrl = Annotated[str, StringConstraints(pattern=r"^https?://[^\s/?#]+[^\s?#]*$", max_length=2048)]
_Rate = Annotated[ByteSize, Field(gt=0)]
_Port = Annotated[int, Field(ge=0, le=65535)]


class NodeFileError(Exception):
    """The file cannot be used: one line for each fault, naming the key."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ServiceSection(_Section):
    """The service that decides.

    `token_file`: this node's token; read again when it is refused. Without it MOEPLACE_TOKEN is sent, if set.
    `ca_file`: who signs the service's certificate, where the system does not know them; without it
    MOEPLACE_CA_FILE.
    """

    url: _HttpUrl
    cluster: _Identifier = "default"
    token_file: Path | None = None
    ca_file: Path | None = None

    def token(self) -> str | None:
        """Raises `NodeFileError`."""
        return read_token(self.token_file) or token_of_environment()

    def authorities(self) -> Path | None:
        """Raises `NodeFileError` for a file that holds none."""
        if self.ca_file is not None:
            return _authorities(self.ca_file, "service.ca_file")
        return ca_file_of_environment()


class DeviceSection(_Section):
    """Memory that experts may use: bytes, or with a unit (20GiB)."""

    device_id: _Identifier
    memory: Annotated[ByteSize, Field(gt=0)]


class LinkSection(_Section):
    """Bandwidth of the node's link, bytes per second: what plans count on."""

    ingress: _Rate = ByteSize(125_000_000)
    egress: _Rate = ByteSize(125_000_000)


class ExpertsSection(_Section):
    """Where other nodes fetch experts from this one, and how much of the link that may take.

    `url`: how others reach it, where that is not http://host:port. `token_file`: a secret that all nodes and
    the origin share; with it only they can fetch. `fetch_least_rate`: bytes per second; a source that gives
    less is left for the next.
    """

    host: str = "127.0.0.1"
    port: _Port = 9000
    url: _HttpUrl | None = None
    token_file: Path | None = None
    allow_unauthenticated: bool = False
    max_sends: Annotated[int, Field(ge=1, le=64)] = 2
    send_limit: _Rate | None = None
    fetch_limit: _Rate | None = None
    fetch_patience_seconds: Annotated[float, Field(gt=0, le=3600)] = 20.0
    fetch_least_rate: _Rate = ByteSize(64_000)


class EngineSection(_Section):
    """A serving engine in another process on this host.

    `hooks_url`: where it is told of experts and routes. `calls_url`: where other nodes call it.
    """

    hooks_url: _HttpUrl | None = None
    calls_url: _HttpUrl | None = None
    timeout_seconds: Annotated[float, Field(gt=0, le=3600)] = 120.0


class LocalSection(_Section):
    """For programs on this host only: telemetry from the engine, health, metrics."""

    host: str = "127.0.0.1"
    port: _Port = 9001


class LatencySection(_Section):
    """`expert_seconds`: of an expert computed here, until the engine tells better."""

    expert_seconds: Annotated[float, Field(ge=0, le=60)] = 0.0
    probe_interval_seconds: Annotated[float, Field(ge=0.1, le=3600)] = 15.0


class NodeFile(_Section):
    """Everything about one node."""

    node_id: _Identifier = Field(default_factory=socket.gethostname, validate_default=True)
    service: ServiceSection
    devices: Annotated[tuple[DeviceSection, ...], Field(min_length=1, max_length=64)]
    data_dir: Path
    link: LinkSection = LinkSection()
    experts: ExpertsSection = ExpertsSection()
    engine: EngineSection = EngineSection()
    local: LocalSection = LocalSection()
    latency: LatencySection = LatencySection()

    @model_validator(mode="before")
    @classmethod
    def _without_labels(cls, given: Any) -> Any:
        """Earlier versions had a key `labels` that nothing used: files that have it are still read."""
        if isinstance(given, dict) and "labels" in given:
            return {name: value for name, value in given.items() if name != "labels"}
        return given

    @field_validator("node_id")
    @classmethod
    def _not_the_origin(cls, node_id: str) -> str:
        if node_id == ORIGIN:
            raise ValueError(f"{ORIGIN} is what the origin is called")
        return node_id

    @field_validator("devices")
    @classmethod
    def _devices_differ(cls, devices: tuple[DeviceSection, ...]) -> tuple[DeviceSection, ...]:
        ids = [device.device_id for device in devices]
        twice = next((device_id for device_id in ids if ids.count(device_id) > 1), None)
        if twice is not None:
            raise ValueError(f"{twice} is named twice, expected different device_ids")
        return devices

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.experts.url is None and self.experts.host in {"0.0.0.0", "::"}:
            raise ValueError(
                f"experts.url: is missing; others cannot reach {self.experts.host}, name the address they use"
            )
        return self

    def node_config(self, experts_url: str) -> NodeConfig:
        """What the node registers as. `experts_url`: where it serves experts, as far as it knows."""
        reached = self.experts.url or experts_url
        return NodeConfig(
            node_id=self.node_id,
            devices={device.device_id: int(device.memory) for device in self.devices},
            ingress_bytes_per_second=float(self.link.ingress),
            egress_bytes_per_second=float(self.link.egress),
            base_url=self.engine.calls_url or reached,
            experts_url=reached,
            local_seconds=self.latency.expert_seconds,
        )


def read_node_file(path: Path) -> NodeFile:
    """Relative paths in it are relative to it. Raises `NodeFileError`."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise NodeFileError(f"{path}: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise NodeFileError(f"{path}: is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise NodeFileError(f"{path}: expected keys like node_id, service and devices")
    return node_file(values, base=path.parent, name=str(path))


def node_file(values: Mapping[str, Any], *, base: Path, name: str = "node") -> NodeFile:
    """The same from what YAML would give. Raises `NodeFileError`."""
    try:
        found = NodeFile.model_validate(values)
    except ValidationError as error:
        raise NodeFileError("\n".join(f"{name}: {line}" for line in _lines(error))) from None

    for key, path in (
        ("data_dir", found.data_dir),
        ("service.token_file", found.service.token_file),
        ("service.ca_file", found.service.ca_file),
        ("experts.token_file", found.experts.token_file),
    ):
        _check_nameable(key, path)

    def placed(path: Path | None) -> Path | None:
        return None if path is None else base / path

    return found.model_copy(
        update={
            "data_dir": base / found.data_dir,
            "service": found.service.model_copy(
                update={
                    "token_file": placed(found.service.token_file),
                    "ca_file": placed(found.service.ca_file),
                }
            ),
            "experts": found.experts.model_copy(update={"token_file": placed(found.experts.token_file)}),
        }
    )


def _check_nameable(key: str, path: Path | None) -> None:
    """Paths of a file in UTF-8 may hold letters that the locale's file names cannot. Raises
    `NodeFileError`."""
    try:
        os.fsencode(path or "")
    except UnicodeEncodeError:
        coding = sys.getfilesystemencoding().upper()
        raise NodeFileError(f"{key}: {str(path)!a} cannot be named in this locale ({coding})") from None


def read_token(path: Path | None) -> str | None:
    """The secret in a file, without the white space around it. Raises `NodeFileError`."""
    if path is None:
        return None
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise NodeFileError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise NodeFileError(f"{path}: {_ONE_SECRET}") from None
    return _secret(text, str(path))


def token_of_environment() -> str | None:
    """What MOEPLACE_TOKEN holds. Raises `NodeFileError` where that cannot be sent."""
    text = os.environ.get(TOKEN_VARIABLE, "")
    return _secret(text, TOKEN_VARIABLE) if text else None


def _secret(text: str, place: str) -> str:
    token = text.strip()
    if not token or not all("!" <= character <= "~" for character in token):
        raise NodeFileError(f"{place}: {_ONE_SECRET}")
    return token


def _lines(error: ValidationError) -> list[str]:
    """One for each fault. That a list is too short says nothing where its entries are at fault."""
    faults = error.errors()
    return [
        _told(fault)
        for fault in faults
        if fault["type"] != "too_short" or not any(_below(other["loc"], fault["loc"]) for other in faults)
    ]


def _below(place: Sequence[int | str], other: Sequence[int | str]) -> bool:
    return len(place) > len(other) and tuple(place[: len(other)]) == tuple(other)


def _told(fault: ErrorDetails) -> str:
    place = ".".join(map(str, fault["loc"]))
    words = str(fault["msg"]).removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        return f"{place}: there is no such key"
    if fault["type"] == "missing":
        return f"{place}: is missing"
    if fault["type"] == "string_pattern_mismatch":
        words = (
            "expected an http or https URL" if place.endswith("url") else "expected an id (A-Z a-z 0-9 . _ -)"
        )
    given = fault["input"]
    shown = f", got {given!r:.60}" if isinstance(given, (str, int, float, bool)) or given is None else ""
    return f"{place}: {words}{shown}" if place else words
