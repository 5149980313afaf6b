"""What a request changes of a cluster's settings."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import NoneType
from typing import Any, get_args

from pydantic import BaseModel

from app.clusters.schemas import ClusterSettings
from app.http.noted import Change


def settled(settings: ClusterSettings) -> ClusterSettings:
    """With the default of `min_replicas` where it was left out: 0 with an origin, which then serves what no
    node has room for, and 1 without one."""
    if settings.origin is None or "min_replicas" in settings.model_fields_set:
        return settings
    return settings.model_copy(update={"min_replicas": 0})


@dataclass(frozen=True)
class Patched:
    """Settings as a merge patch leaves them. reset: pointers of those that went back to their defaults
    although the patch did not name them."""

    document: dict[str, Any]
    reset: list[str]


def patched(before: ClusterSettings, patch: Mapping[str, Any]) -> Patched:
    """What a JSON merge patch makes of settings. `min_replicas` 0 needs an origin, so it goes with it."""
    document = _merged(ClusterSettings, before.model_dump(mode="json"), patch)
    if document.get("origin") is None and before.min_replicas == 0 and "min_replicas" not in patch:
        del document["min_replicas"]
        return Patched(document, ["/min_replicas"])
    return Patched(document, [])


def _merged(model: type[BaseModel], document: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """`document` of `model` changed as RFC 7396 says: members of `patch` replace those of the document,
    objects are merged into objects. Null stays where the model takes it, which turns the setting off, and
    removes any other field, which is then as by default. Of a field that the model does not know it stays,
    too, so that a misspelt name is found."""
    result = dict(document)
    for name, value in patch.items():
        field = model.model_fields.get(name)
        kinds = () if field is None else get_args(field.annotation) or (field.annotation,)
        inner = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
        if value is None and kinds and NoneType not in kinds:
            result.pop(name, None)
        elif inner is not None and isinstance(value, Mapping):
            result[name] = _merged(inner, result.get(name) or {}, value)
        else:
            result[name] = value
    return result


def changes(before: ClusterSettings | None, after: ClusterSettings) -> list[Change]:
    """Each setting that differs, by JSON pointer, in order; of a new cluster (None) from the defaults."""
    old = dict(_leaves((before or ClusterSettings()).model_dump(mode="json")))
    new = dict(_leaves(after.model_dump(mode="json")))
    pointers = sorted(pointer for pointer in old.keys() | new.keys() if old.get(pointer) != new.get(pointer))
    return [Change(pointer=at, old=old.get(at), new=new.get(at)) for at in pointers]


def reset(before: ClusterSettings, after: ClusterSettings, given: ClusterSettings) -> list[str]:
    """Pointers of the settings that differ although the request, `given`, did not name them: they went back
    to their defaults."""
    named = set(_named(given))
    return [
        change.pointer
        for change in changes(before, after)
        if not any(change.pointer == name or change.pointer.startswith(f"{name}/") for name in named)
        and not any(name.startswith(f"{change.pointer}/") for name in named)
    ]


def _named(given: BaseModel, prefix: str = "") -> Iterator[str]:
    """Pointers of what a request named, as deep as it went."""
    for name in given.model_fields_set:
        value = getattr(given, name)
        at = f"{prefix}/{name}"
        if isinstance(value, BaseModel) and value.model_fields_set:
            yield from _named(value, at)
        else:
            yield at


def _leaves(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, member in value.items():
        at = f"{prefix}/{name}"
        if isinstance(member, Mapping):
            yield from _leaves(member, at)
        else:
            yield at, member
