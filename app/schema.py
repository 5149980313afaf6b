"""What all request and response bodies share."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, PlainSerializer

ID_PATTERN = r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"
"""Ids of clusters, nodes, models and devices: they stand in URLs, in Redis keys and in members of sets."""

HTTP_URL_PATTERN = r"^https?://[^\s/?#]+[^\s?#]*$"

RECORD_ID_PATTERN = r"^[a-z0-9-]{1,64}$"
"""Ids that the service gives: of plans and optimizations."""

MAX_EXACT = 2**53
"""Integers beyond this are not exact in JSON for most clients, nor in float64."""

Identifier = Annotated[str, Field(pattern=ID_PATTERN)]
InstanceUid = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._:-]+$")]
HttpUrl = Annotated[str, Field(max_length=2048, pattern=HTTP_URL_PATTERN)]
"""Where others send HTTP requests: a base, to which paths are added."""

Seconds = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Bytes = Annotated[int, Field(ge=0, le=MAX_EXACT)]
BytesPerSecond = Annotated[float, Field(gt=0, le=1e15, allow_inf_nan=False)]
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
