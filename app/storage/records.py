"""Records in Redis, which processes of neighbouring versions read and write at the same time.

During a rolling upgrade an older process meets records that a newer one wrote. So a reader of a record
accepts fields that it does not know, at every depth, and a writer that stores a record again writes those
fields, too. A new field therefore needs a default, and nothing else. A change that an older process would
misunderstand is made in two releases: the first reads both forms, the second writes the new one.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError

from app.errors import DamagedRecord

Record = TypeVar("Record", bound=BaseModel)


def read_record(model: type[Record], stored: bytes, key: str) -> Record:
    """The record that `key` has in Redis as `stored`. It remembers unknown fields for `record_json`.

    Raises `DamagedRecord`, which names `key`, where the bytes are not such a record.
    """
    try:
        return model.model_validate_json(stored)  # refuses unknown fields, and remembers nothing of them
    except ValidationError:
        pass
    try:
        return model.model_validate_json(stored, extra="allow")
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        problem = f"{place}: {first['msg']}" if place else first["msg"]
        raise DamagedRecord(key, f"{model.__name__}: {problem}") from error


def record_json(record: BaseModel) -> bytes:
    """What to store: the record's fields, and the unknown ones that it was read with."""
    # A record with unknown fields anywhere, its own or those of its parts, has a dict for its own, if only an
    # empty one. All others, plans of tens of thousands of moves among them, are not searched.
    if record.__pydantic_extra__ is None:
        return record.model_dump_json().encode()
    return orjson.dumps(_with_unknown(record, record.model_dump(mode="json")))


def _with_unknown(value: object, dumped: Any) -> Any:
    """dumped: `value` as JSON types, without unknown fields."""
    match value:
        case BaseModel():
            known = {name: _with_unknown(getattr(value, name), part) for name, part in dumped.items()}
            return {**known, **(value.__pydantic_extra__ or {})}
        case Mapping():
            parts = zip(value.values(), dumped.items(), strict=True)
            return {key: _with_unknown(part, found) for part, (key, found) in parts}
        case list() | tuple():
            return [_with_unknown(part, found) for part, found in zip(value, dumped, strict=True)]
        case _:
            return dumped
