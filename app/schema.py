"""What all request and response bodies share."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainSerializer,
    ValidationInfo,
)
from pydantic_core import CoreSchema, PydanticKnownError, core_schema

ID_PATTERN = r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"
"""Ids of clusters, nodes, models and devices: they stand in URLs, in Redis keys and in members of sets."""

HTTP_URL_PATTERN = r"^https?://[^\s/?#]+[^\s?#]*$"

RECORD_ID_PATTERN = r"^[a-z0-9-]{1,64}$"
"""Ids that the service gives: of plans and optimizations."""

MAX_EXACT = 2**53
"""Integers beyond this are not exact in JSON for most clients, nor in float64."""

REQUEST: Mapping[str, Any] = {"request": True}
"""Pydantic's context while a request is judged: `InRequests` holds then."""


@dataclass(frozen=True, slots=True)
class InRequests:
    """A narrower range that requests must keep to. What was stored before there was one can still be read."""

    ge: float
    le: float

    def __contains__(self, value: float) -> bool:
        return self.ge <= value <= self.le

    def clipped(self, value: float) -> float:
        return min(max(value, self.ge), self.le)

    def _judge(self, value: float | None, info: ValidationInfo) -> float | None:
        if value is None or info.context is not REQUEST:
            return value
        if value < self.ge:
            raise PydanticKnownError("greater_than_equal", {"ge": self.ge})
        if value > self.le:
            raise PydanticKnownError("less_than_equal", {"le": self.le})
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_after_validator_function(self._judge, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        found = handler(schema)
        for part in found.get("anyOf", [found]):
            if part.get("type") in ("number", "integer"):
                part.pop("exclusiveMinimum", None)
                part.update(minimum=self.ge, maximum=self.le)
        return found


Identifier = Annotated[str, Field(max_length=63, pattern=ID_PATTERN)]
RecordId = Annotated[str, Field(max_length=64, pattern=RECORD_ID_PATTERN)]
InstanceUid = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._:-]+$")]
HttpUrl = Annotated[str, Field(max_length=2048, pattern=HTTP_URL_PATTERN)]
"""Where others send HTTP requests: a base, to which paths are added."""

BANDWIDTH = InRequests(ge=1e3, le=1e13)
"""From a bad radio link, 1 kB/s, to ten times the fastest memory, 10 TB/s."""

LATENCY = InRequests(ge=0, le=3600)
DEVICE_MEMORY = InRequests(ge=0, le=2**44)
"""16 TiB: of all devices of all nodes together it fits into int64."""

NODE_MEMORY = InRequests(ge=0, le=2**50)

Bytes = Annotated[int, Field(ge=0, le=MAX_EXACT)]
Latency = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False), LATENCY]
"""Seconds."""

BytesPerSecond = Annotated[float, Field(gt=0, le=1e15, allow_inf_nan=False), BANDWIDTH]
Layer = Annotated[int, Field(ge=0, le=9_999)]
ExpertId = Annotated[int, Field(ge=0, le=65_534)]


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


Timestamp = Annotated[AwareDatetime, PlainSerializer(_rfc3339, return_type=str, when_used="json")]


class Schema(BaseModel):
    """Unknown fields are refused rather than ignored: a misspelt field must not pass for its default."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        ser_json_inf_nan="null",
        # Answers have all their fields, also those that requests may leave out.
        json_schema_serialization_defaults_required=True,
    )
